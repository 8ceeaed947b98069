"""The port's command line: look into weights, and convert them between families.

    python -m vl_ltr_jax.models.port inspect SOURCE
    python -m vl_ltr_jax.models.port convert SOURCE DEST --to hf|openai|vl_ltr

SOURCE is a directory, a file or a hub id, as `clip_files` describes; DEST a directory
that does not exist yet, which appears whole or not at all.
"""

import argparse
import collections
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
from vl_ltr_jax.models import clip_files, vl_ltr
from vl_ltr_jax.models.clip import ClipConfig, VisionConfig, variable_shapes
from vl_ltr_jax.models.sizes import to_preprocessor_json
from vl_ltr_jax.models.tensor_files import read_tensors
from vl_ltr_jax.models.weights import (
    HUGGING_FACE,
    OPENAI,
    VL_LTR,
    allowance,
    places,
)

FAMILIES = {"hf": HUGGING_FACE, "openai": OPENAI, "vl_ltr": VL_LTR}
_HELP = """\
Looks into weights of CLIP or of an LGR, and writes them under other names."""
_EXAMPLES = """\
examples:
  # every tensor and its place in the model
  python -m vl_ltr_jax.models.port inspect openai/clip-vit-base-patch16

  # a checkpoint of OpenAI's for transformers.CLIPModel
  python -m vl_ltr_jax.models.port convert ViT-B-16.pt clip_vit_b16 --to hf

`convert --help` lists what it takes."""
_TITLES = {
    "hf": "CLIP, Hugging Face's names",
    "openai": "CLIP, OpenAI's names",
    "vl_ltr": "LGR, VL-LTR's names",
}
LGR_FILE = "lgr.safetensors"
# What a tokenizer or an image processor reads, copied beside converted weights.
COMPANIONS = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)


def inspect(source: str) -> str:
    """What a source holds, tensor by tensor, and where each goes.

    Args:
        source: A directory, a file or a hub id.

    Raises:
        ValueError: (a subclass) If it is broken, or not exactly a model known here.
    """
    path = clip_files.find_weights(source)
    tensors = read_tensors(path)
    if vl_ltr.kind_of(tensors) == "LGR":
        released = vl_ltr.from_tensors(tensors, str(path))
        family, (classes, anchors, width) = "vl_ltr", tensors["text_embeddings"].shape
        shapes = vl_ltr.lgr_shapes(released.vision, width, classes)
        sizes = [
            _vision(released.vision),
            f"embeddings of width {width}",
            f"{classes} classes with up to {anchors} anchor sentences each",
        ]
    else:
        found = clip_files.find_clip(source)
        clip_files.from_file(found, tensors)
        family = "hf" if found.names is HUGGING_FACE else "openai"
        shapes, sizes = variable_shapes(found.config), _sizes(found.config)
    where = places(shapes, FAMILIES[family]) | {"text_embeddings": "anchors"}
    used = {name: tensor for name, tensor in tensors.items() if name in where}
    count = sum(tensor.size for tensor in used.values())
    dtypes = collections.Counter(str(tensor.dtype) for tensor in used.values())
    lines = [
        f"{path}",
        f"{_TITLES[family]}",
        *(f"  {size}" for size in sizes),
        f"  {count:,} numbers in {len(used)} tensors, "
        + ", ".join(f"{number} of {dtype}" for dtype, number in dtypes.most_common()),
    ]
    lines += [
        f"{name}  {list(tensor.shape)} {tensor.dtype} -> {where[name]}"
        for name, tensor in used.items()
    ]
    lines += [
        f"{name}  {list(tensor.shape)} {tensor.dtype} left over: {allowance(name)}"
        for name, tensor in tensors.items()
        if name not in used
    ]
    return "\n".join(lines)


def convert(
    source: str,
    destination: str | Path,
    *,
    to: str,
    dtype: clip_files.Dtype | None = None,
    image_size: int | None = None,
) -> Path:
    """Writes the model of a source under another family of names.

    Hugging Face's files converted to themselves come out byte for byte as they were.

    Args:
        source: A directory, a file or a hub id.
        destination: A directory that does not exist, or is empty.
        to: `hf`, `openai`, or `vl_ltr` for an LGR.
        dtype: Of the tensors; if None the source's, float32 if it has several.
        image_size: Side in pixels; position embeddings are interpolated to it.

    Returns:
        The destination.

    Raises:
        ValueError: (a subclass) If the source is broken or has no such form, or the
            destination is in use. Nothing is left half-written.
    """
    path = clip_files.find_weights(source)
    tensors = read_tensors(path)
    is_lgr = vl_ltr.kind_of(tensors) == "LGR"
    if is_lgr != (to == "vl_ltr"):
        allowed = ("vl_ltr",) if is_lgr else ("hf", "openai")
        raise ValueError(
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
        found = clip_files.find_clip(source)
        config, variables = clip_files.from_file(found, tensors, image_size=image_size)
        # That of another size would be copied, and none be there of a lone file.
        resized = config.vision.image_size != found.config.vision.image_size
        own = not resized and path.with_name("config.json").is_file()
        size = config.vision.image_size
        write_clip(
            directory,
            config,
            variables,
            to=to,
            dtype=chosen,
            beside=path.parent,
            preprocessor="" if own else to_preprocessor_json(size),
        )
        same = config == found.config and chosen == _dtype_of(tensors)
        if to == "hf" and found.names is HUGGING_FACE and same:
            shutil.copy(path.with_name("config.json"), directory / "config.json")

    return write_whole(Path(destination), write)


def write_clip(
    directory: Path,
    config: ClipConfig,
    variables: Mapping[str, Any],
    *,
    to: str,
    dtype: clip_files.Dtype,
    beside: Path,
    preprocessor: str = "",
) -> None:
    """Writes a CLIP with the tokenizer files that lie in `beside`.

    Under Hugging Face's names `preprocessor` becomes its `preprocessor_config.json`;
    without one, that in `beside` is copied, where there is one.
    """
    clip_files.save_clip(directory, config, variables, dtype=dtype, names=FAMILIES[to])
    for name in COMPANIONS:
        if (beside / name).is_file():
            shutil.copy(beside / name, directory / name)
    if to == "hf" and preprocessor:
        path = directory / "preprocessor_config.json"
        path.write_text(preprocessor, encoding="utf-8")


def write_lgr(
    directory: Path, released: vl_ltr.Released, dtype: clip_files.Dtype
) -> None:
    """Writes an LGR as the authors' state dict, in safetensors."""
    if released.recognizer is None:
        raise ValueError("a CVLP has no recognition head to write")
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
        ValueError: If something lies there already.
    """
    dangling = destination.is_symlink() and not destination.exists()
    filled = destination.is_dir() and any(destination.iterdir())
    if dangling or filled or destination.is_file():
        raise ValueError(
            f"{destination} is in use; nothing is overwritten, name another directory"
        )


def write_whole(destination: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a directory beside the destination, then moves it there.

    Raises:
        ValueError: If the destination is in use, or no directory can be made there.
    """
    check_free(destination)
    with contextlib.ExitStack() as whole:
        try:
            partial = whole.enter_context(whole_file.write_directory(destination))
        except OSError as error:
            raise ValueError(
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
            print(terminal.printable(inspect(given.source), "\n"))
            return
        made = convert(
            given.source,
            given.destination,
            to=given.to,
            dtype=given.dtype,
            image_size=given.image_size,
        )
        print(f"{made}: {', '.join(sorted(file.name for file in made.iterdir()))}")


def _dtype_of(tensors: Mapping[str, np.ndarray]) -> clip_files.Dtype:
    """The one dtype of the weights; float32 where there are several."""
    kinds = {tensor.dtype.name for tensor in tensors.values()} - {"int32", "int64"}
    for dtype in get_args(clip_files.Dtype):
        if kinds == {dtype}:
            return dtype
    return "float32"


def _vision(vision: VisionConfig) -> str:
    kind = f"ViT, patches of {vision.patch_size}" if vision.patch_size else "ResNet"
    return (
        f"image tower: {kind}, {vision.image_size} pixels, width {vision.width}, "
        f"layers {vision.layers}, heads {vision.heads}"
    )


def _sizes(config: ClipConfig) -> list[str]:
    text = config.text
    return [
        _vision(config.vision),
        f"text tower: width {text.width}, layers {text.layers}, heads {text.heads}, "
        f"{text.context_length} tokens, vocabulary {text.vocab_size}",
        f"embeddings of width {config.embed_dim}",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
