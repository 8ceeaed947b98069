"""Inspects weights, and converts them between families.

    python -m vl_ltr_jax.models.port inspect SOURCE
    python -m vl_ltr_jax.models.port convert SOURCE DEST --to hf|openai|vl_ltr

A file alone does not say the activation: `convert` asks for --activation.

SOURCE is a directory, a file or a hub id, as `clip_files` describes; DEST a directory
that does not exist yet, which appears whole or not at all.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from vl_ltr_jax.commands import exits
from vl_ltr_jax.logs import messages
from vl_ltr_jax.models.layers import ACTIVATIONS
from vl_ltr_jax.models.port import clip_files
from vl_ltr_jax.models.port.convert import convert
from vl_ltr_jax.models.port.listing import FAMILIES, inspect
from vl_ltr_jax.storage import paths

_HELP = """\
Looks into weights of CLIP or of an LGR, and writes them under other names."""
_EXAMPLES = """\
examples:
  # every tensor and its place in the model
  python -m vl_ltr_jax.models.port inspect openai/clip-vit-base-patch16

  # a checkpoint of OpenAI's for transformers.CLIPModel
  python -m vl_ltr_jax.models.port convert ViT-B-16.pt clip_vit_b16 --to hf

`convert --help` lists what it takes."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vl_ltr_jax.models.port",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    looking = commands.add_parser("inspect", help="list the tensors and their places")
    converting = commands.add_parser("convert", help="write under other names")
    for command in (looking, converting):
        command.add_argument(
            "source",
            metavar="SOURCE",
            help="a directory, a file, or a hub id such as "
            "openai/clip-vit-base-patch16",
        )
        command.add_argument(
            "--activation",
            choices=ACTIVATIONS,
            help="of the MLPs, where no file beside the weights says it",
        )
        command.add_argument(
            "--head_width",
            type=int,
            metavar="N",
            help="of the image tower, where no file says it; 64 up to ViT-L",
        )
    converting.add_argument(
        "destination",
        metavar="DEST",
        help="a new directory, which appears whole or not at all",
    )
    converting.add_argument(
        "--to",
        choices=FAMILIES,
        required=True,
        help="hf: transformers.CLIPModel; openai: OpenAI's CLIP; vl_ltr: the authors' "
        "LGR",
    )
    converting.add_argument(
        "--dtype",
        choices=get_args(clip_files.Dtype),
        help="of the weights; by default what they have",
    )
    converting.add_argument(
        "--image_size",
        type=int,
        metavar="N",
        help="side in pixels; position embeddings are interpolated",
    )
    given = parser.parse_args(paths.expand_arguments(arguments))
    with exits.refusing():
        if given.command == "inspect":
            listed = inspect(
                given.source, activation=given.activation, head_width=given.head_width
            )
            print(messages.printable(listed, "\n"))
            return
        made = convert(
            given.source,
            given.destination,
            to=given.to,
            dtype=given.dtype,
            image_size=given.image_size,
            activation=given.activation,
            head_width=given.head_width,
        )
        print(f"{made}: {', '.join(sorted(file.name for file in made.iterdir()))}")


def run() -> None:
    """Runs the command in this process."""
    main(sys.argv[1:])
