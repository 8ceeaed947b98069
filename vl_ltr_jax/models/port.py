"""The port's command line: look into weights, and convert them between families.

    python -m vl_ltr_jax.models.port inspect SOURCE
    python -m vl_ltr_jax.models.port convert SOURCE DEST --to hf|openai|vl_ltr

A file alone does not say the activation: `convert` asks for --activation.

SOURCE is a directory, a file or a hub id, as `clip_files` describes; DEST a directory
that does not exist yet, which appears whole or not at all.
"""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from vl_ltr_jax import exits, paths, terminal, whole_file
from vl_ltr_jax.errors import UserError
from vl_ltr_jax.models import clip_files, open_clip, vl_ltr
from vl_ltr_jax.models.clip import ClipConfig
from vl_ltr_jax.models.layers import ACTIVATIONS, Activation
from vl_ltr_jax.models.listing import FAMILIES, inspect
from vl_ltr_jax.models.preprocessing import Preprocessing
from vl_ltr_jax.models.tensor_files import read_tensors

_HELP = """\
Looks into weights of CLIP or of an LGR, and writes them under other names."""
_EXAMPLES = """\
examples:
  # every tensor and its place in the model
  python -m vl_ltr_jax.models.port inspect openai/clip-vit-base-patch16

  # a checkpoint of OpenAI's for transformers.CLIPModel
  python -m vl_ltr_jax.models.port convert ViT-B-16.pt clip_vit_b16 --to hf

`convert --help` lists what it takes."""
LGR_FILE = "lgr.safetensors"
# Beside weights of a family, what no tensor and no tokenizer holds.
_OWN_FILES = {
    "hf": clip_files.PROCESSOR_FILES,
    "openai": (open_clip.SETTINGS,),
}
# Files that a tokenizer reads, copied beside converted weights.
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


class PortError(UserError):
    """A model without the form asked for, or no place to put it."""


def convert(
    source: str,
    destination: str | Path,
    *,
    to: str,
    dtype: clip_files.Dtype | None = None,
    image_size: int | None = None,
    activation: Activation | None = None,
    head_width: int | None = None,
) -> Path:
    """Writes the model of a source under another family of names.

    Hugging Face's files converted to themselves come out byte for byte as they were.

    Args:
        source: A directory, a file or a hub id.
        destination: A directory that does not exist, or is empty.
        to: `hf`, `openai`, or `vl_ltr` for an LGR.
        dtype: Of the tensors; if None the source's, float32 if it has several.
        image_size: Side in pixels; position embeddings are interpolated to it.
        activation: As `clip_files.find_clip`.
        head_width: As `clip_files.find_clip`.

    Returns:
        The destination.

    Raises:
        UserError: If the source is broken or has no such form, or the destination is
            in use. Nothing is left half-written.
    """
    path = clip_files.find_weights(source)
    tensors = read_tensors(path)
    is_lgr = vl_ltr.kind_of(tensors) == "LGR"
    if is_lgr != (to == "vl_ltr"):
        allowed = ("vl_ltr",) if is_lgr else ("hf", "openai")
        raise PortError(
            f"{path} is {'an LGR' if is_lgr else 'a CLIP'}: --to {to} does not fit, "
            f"use --to {' or --to '.join(allowed)}"
        )
    chosen = dtype or _dtype_of(tensors)

    def write(directory: Path) -> None:
        if is_lgr:
            released = vl_ltr.from_tensors(tensors, str(path))
            if image_size is not None:
                released = released.at_image_size(image_size)
            write_lgr(directory, released, chosen)
            return
        found = clip_files.find_clip(
            source, activation=activation, head_width=head_width
        )
        for note in found.notes:
            terminal.warn(note)
        config, variables = clip_files.from_file(found, tensors, image_size=image_size)
        same = config == found.config and FAMILIES[to] is found.names
        # Files of Hugging Face's that are copied below must not get another beside.
        preprocessing = None if same and to == "hf" else found.preprocessing
        if preprocessing is None and not (same and to == "hf"):
            terminal.warn(
                f"{path}: no file beside it says how pixels are normalised; written "
                "are the numbers of OpenAI's CLIP"
            )
            preprocessing = Preprocessing(found.config.vision.image_size)
        if preprocessing is not None:
            size = config.vision.image_size
            preprocessing = preprocessing.at_image_size(size)
        write_clip(
            directory,
            config,
            variables,
            to=to,
            dtype=chosen,
            beside=path.parent,
            preprocessing=preprocessing,
        )
        if same:  # the source's own files, byte for byte
            _copy(path.parent, directory, _OWN_FILES[to])
            if chosen == _dtype_of(tensors):
                _copy(path.parent, directory, ("config.json",) if to == "hf" else ())

    return write_whole(Path(destination), write)


def write_clip(
    directory: Path,
    config: ClipConfig,
    variables: Mapping[str, Any],
    *,
    to: str,
    dtype: clip_files.Dtype,
    beside: Path,
    preprocessing: Preprocessing | None,
) -> None:
    """Writes a CLIP with the tokenizer files that lie in `beside`."""
    if to == "openai" and preprocessing is not None:
        side, shorter_side = preprocessing.image_size, preprocessing.shorter_side
        if side != shorter_side:
            terminal.warn(
                f"{open_clip.SETTINGS} has no place for a shorter side of "
                f"{shorter_side} pixels, and open_clip resizes to {side}; for this "
                f"model's pixels resize to {shorter_side} and cut the centre, or take "
                "--to hf"
            )
    clip_files.save_clip(
        directory,
        config,
        variables,
        dtype=dtype,
        names=FAMILIES[to],
        preprocessing=preprocessing,
    )
    _copy(beside, directory, TOKENIZER_FILES)


def _copy(source: Path, directory: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copy(source / name, directory / name)


def write_lgr(
    directory: Path, released: vl_ltr.Released, dtype: clip_files.Dtype
) -> None:
    """Writes an LGR as the authors' state dict, in safetensors."""
    if released.recognizer is None:
        raise PortError("a CVLP has no recognition head to write")
    vision = released.vision
    # The authors' code builds OpenAI's towers and is told of no other.
    if vision.patch_size and (
        vision.activation != "quick_gelu" or vision.width != 64 * vision.heads
    ):
        raise PortError(
            f"the image tower has {vision.activation} and heads "
            f"{vision.width // vision.heads} wide; the authors' LGR has quick_gelu and "
            "64. --to hf and --to openai keep the tower, --to stablehlo all of it"
        )
    tensors = vl_ltr.lgr_tensors(released.variables, released.recognizer)
    save_file(
        {
            name: tensor.astype(jnp.dtype(dtype)) if tensor.dtype != int else tensor
            for name, tensor in tensors.items()
        },
        directory / LGR_FILE,
        metadata={"format": "pt"},
    )


def check_free(destination: Path) -> None:
    """Looks whether a directory can be made here.

    Raises:
        PortError: If something lies there already.
    """
    dangling = destination.is_symlink() and not destination.exists()
    filled = destination.is_dir() and any(destination.iterdir())
    if dangling or filled or destination.is_file():
        raise PortError(
            f"{destination} is in use; nothing is overwritten, name another directory"
        )


def write_whole(destination: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a directory beside the destination, then moves it there.

    Raises:
        PortError: If the destination is in use, or no directory can be made there.
    """
    check_free(destination)
    with contextlib.ExitStack() as whole:
        try:
            partial = whole.enter_context(whole_file.write_directory(destination))
        except OSError as error:
            raise PortError(
                f"{destination} cannot be written: {error.strerror or error}; name a "
                "directory where you may write"
            ) from error
        write(partial)
        for path in partial.iterdir():  # safetensors are for their owner alone
            path.chmod(partial.stat().st_mode & 0o666)
    return destination


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
            print(terminal.printable(listed, "\n"))
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


def _dtype_of(tensors: Mapping[str, np.ndarray]) -> clip_files.Dtype:
    """The one dtype of the weights; float32 where there are several."""
    kinds = {tensor.dtype.name for tensor in tensors.values()} - {"int32", "int64"}
    for dtype in get_args(clip_files.Dtype):
        if kinds == {dtype}:
            return dtype
    return "float32"


if __name__ == "__main__":
    main(sys.argv[1:])
