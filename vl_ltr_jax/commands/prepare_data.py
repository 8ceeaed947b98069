"""Preparation of data sets with tensorflow-datasets, for random reads.

    python -m vl_ltr_jax.data.tfds_builders NAME --root=ROOT --data_dir=DIR

NAME is `places_lt` or `inaturalist2018_lt`, built from the authors' files under ROOT.
Or it is a data set of the catalogue, such as `imagenet_lt` or `cifar100`, with its
manual downloads under ROOT. DIR/NAME/VERSION appears whole or not at all. The source
`tfds` reads it. Not in the paper.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.commands.command import Command, parse
from vl_ltr_jax.data.sources.tfds_builders import IMAGES_PER_SHARD, prepare
from vl_ltr_jax.data.sources.tfds_directory import PREPARABLE, open_builder
from vl_ltr_jax.logs import console

COMMAND = Command(
    "vl_ltr_jax.data.tfds_builders",
    "Prepares a data set for training: many small files become a few large ones, which "
    "shared disks read faster. Nothing is overwritten. A run reads it with "
    "data.source=tfds. vl_ltr_jax/data/README.md has more.",
    (
        (
            "Places-LT, from the lists and images under ROOT",
            "places_lt --root=ROOT --data_dir=DIR",
        ),
        (
            "CIFAR-100, which is downloaded; configs/cifar100_lt.py trains on it",
            "cifar100 --data_dir=data/tensorflow_datasets",
        ),
    ),
)


@exits.with_codes
def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    parser = COMMAND.parser(quiet=True)
    parser.add_argument(
        "name",
        metavar="NAME",
        help=f"{', '.join(PREPARABLE)}, or a data set of the catalogue",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="directory of the data set's files, or of its manual downloads",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="directory for NAME/VERSION, which appears whole or not at all",
    )
    parser.add_argument(
        "--num_shards",
        type=_count,
        metavar="N",
        help=f"files of each split; by default one for {IMAGES_PER_SHARD:,} images",
    )
    parsed = parse(parser, arguments)
    if parsed.quiet or not console.is_terminal():
        tfds.disable_progress_bar()  # its bars are for terminals
    directory = prepare(
        parsed.name, parsed.data_dir, root=parsed.root, num_shards=parsed.num_shards
    )
    sizes = open_builder(directory).info.splits
    counts = [f"{name} {split.num_examples:,}" for name, split in sizes.items()]
    print(f"{directory}: {', '.join(counts)} images")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def run() -> None:
    """Runs the command in this process."""
    process.run(main)
