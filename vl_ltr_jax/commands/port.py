"""Inspection of weights, and conversion between families.

    python -m vl_ltr_jax.models.port inspect SOURCE
    python -m vl_ltr_jax.models.port convert SOURCE DEST --to hf|openai|vl_ltr

A file alone does not say the activation: `convert` asks for --activation.

SOURCE is a directory, a file or a hub id, as `clip_files` describes. DEST is a new
directory, which appears whole or not at all.
"""

from collections.abc import Sequence
from typing import get_args

from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.commands.command import Command, parse
from vl_ltr_jax.logs import messages
from vl_ltr_jax.models.layers import ACTIVATIONS
from vl_ltr_jax.models.port import clip_files
from vl_ltr_jax.models.port.convert import convert
from vl_ltr_jax.models.port.listing import FAMILIES, inspect

COMMAND = Command(
    "vl_ltr_jax.models.port",
    "Lists the weights of a CLIP or an LGR, or writes them under other names.",
    (
        (
            "every tensor and its place in the model",
            "inspect openai/clip-vit-base-patch16",
        ),
        (
            "a checkpoint of OpenAI's for transformers.CLIPModel",
            "convert ViT-B-16.pt clip_vit_b16 --to hf",
        ),
    ),
)


@exits.with_codes
def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    parser = COMMAND.parser()
    commands = parser.add_subparsers(dest="command", required=True)
    inspecting = commands.add_parser("inspect", help="list tensors and their places")
    converting = commands.add_parser("convert", help="write under other names")
    for subparser in (inspecting, converting):
        subparser.add_argument(
            "source",
            metavar="SOURCE",
            help="a directory, a file, or a hub id such as "
            "openai/clip-vit-base-patch16",
        )
        subparser.add_argument(
            "--activation",
            choices=ACTIVATIONS,
            help="of the MLPs, if no file next to the weights says it",
        )
        subparser.add_argument(
            "--head_width",
            type=int,
            metavar="N",
            help="of the image tower, if no file says it; 64 up to ViT-L",
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
        help="of the weights; by default unchanged",
    )
    converting.add_argument(
        "--image_size",
        type=int,
        metavar="N",
        help="side in pixels; position embeddings are interpolated",
    )
    parsed = parse(parser, arguments)
    options = {"activation": parsed.activation, "head_width": parsed.head_width}
    if parsed.command == "inspect":
        print(messages.printable(inspect(parsed.source, **options), "\n"))
        return 0
    directory = convert(
        parsed.source,
        parsed.destination,
        to=parsed.to,
        dtype=parsed.dtype,
        image_size=parsed.image_size,
        **options,
    )
    print(f"{directory}: {', '.join(sorted(f.name for f in directory.iterdir()))}")
    return 0


def run() -> None:
    """Runs the command in this process."""
    process.run(main)
