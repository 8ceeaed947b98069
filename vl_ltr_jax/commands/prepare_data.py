"""Prepares data sets with tensorflow-datasets, for reading at random.

    python -m vl_ltr_jax.data.tfds_builders NAME --root=ROOT --data_dir=DIR

NAME is `places_lt` or `inaturalist2018_lt`, made from the authors' files under ROOT, or
a data set of the catalogue, such as `imagenet_lt` or `cifar100`, with what has to be
downloaded by hand under ROOT. DIR/NAME/VERSION appears whole or not at all; the source
`tfds` reads it. Not in the paper.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from vl_ltr_jax.commands import exits
from vl_ltr_jax.data.sources.tfds_builders import IMAGES_PER_SHARD, prepare
from vl_ltr_jax.data.sources.tfds_directory import PREPARABLE, open_builder
from vl_ltr_jax.logs import console
from vl_ltr_jax.storage import paths

_HELP = """\
Prepares a data set for training: many small files become a few large ones, which shared
disks read faster. Nothing is overwritten. A run reads it with data.source=tfds."""
_EXAMPLES = """\
examples:
  # Places-LT, from the lists and images under ROOT
  python -m vl_ltr_jax.data.tfds_builders places_lt --root=ROOT --data_dir=DIR

  # CIFAR-100, which is downloaded; configs/cifar100_lt.py trains on it
  python -m vl_ltr_jax.data.tfds_builders cifar100 --data_dir=data/tensorflow_datasets

vl_ltr_jax/data/README.md says more."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vl_ltr_jax.data.tfds_builders",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help=f"{', '.join(PREPARABLE)}, or any other of the catalogue",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="the data set's files, or what has to be downloaded by hand",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="where NAME/VERSION appears, whole or not at all",
    )
    parser.add_argument(
        "--num_shards",
        type=_count,
        metavar="N",
        help=f"files of each split; by default one for {IMAGES_PER_SHARD:,} images",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    given = parser.parse_args(paths.expand_arguments(arguments))
    console.be_quiet(given.quiet)
    if given.quiet or not console.is_terminal():
        tfds.disable_progress_bar()  # its bars are for terminals
    with exits.refusing():
        made = prepare(
            given.name, given.data_dir, root=given.root, num_shards=given.num_shards
        )
    sizes = open_builder(made).info.splits
    counts = [f"{name} {split.num_examples:,}" for name, split in sizes.items()]
    print(f"{made}: {', '.join(counts)} images")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of files from 1 up")
    return int(text)


def run() -> None:
    """Runs the command in this process."""
    main(sys.argv[1:])
