"""A recognizer as a program that JAX alone can run, or as plain arrays.

The program is StableHLO, for any number of pictures, on CPU, CUDA and TPU. Its arrays
are a second file. Neither needs this package.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export
from jaxtyping import Array, UInt8
from safetensors.numpy import load_file, save_file

from vl_ltr_jax import __version__
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.models import lgr
from vl_ltr_jax.recognizer import head
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.storage import atomic, strict_json
from vl_ltr_jax.storage.artifact import ArtifactError

PROGRAM, ARRAYS = "recognizer.stablehlo", "arrays.safetensors"
PLAIN_ARRAYS, DESCRIPTION, README = "arrays.npz", "description.json", "README.txt"
PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-5
COMPARED_SIZES = (1, 3, 17)  # of batches

Outputs: TypeAlias = dict[str, Array]
Flat: TypeAlias = dict[str, np.ndarray]
_README = """\
A recognizer of {num_classes} classes, written by vl_ltr_jax {version} with JAX {jax}.
This loads it and calls it in this directory, on any number of pictures:

import jax, jax.export, numpy, pathlib
from safetensors.numpy import load_file
arrays = load_file("{arrays}")
program = jax.export.deserialize(pathlib.Path("{program}").read_bytes())
images = numpy.zeros((2, {size}, {size}, 3), numpy.uint8)
print(jax.jit(program.call)(arrays, images)["probabilities"])

Probabilities are [pictures, {num_classes}]; "features" [pictures, {width}] are the
embeddings that the classes are told by. {description} has the names of the classes, and
says how a picture becomes {size} x {size} pixels. A loop that calls it often puts the
arrays on the device once, by jax.device_put, and keeps jax.jit(program.call).

The program was written for {platforms}. On random pictures it gave what the model
gives, but for {difference:.0e}.
"""


def write_program(directory: Path, recognizer: Recognizer) -> None:
    """Writes the program, its arrays, a description, and how to call it.

    Args:
      directory: empty directory.
      recognizer: the model.

    Raises:
      ArtifactError: the program, loaded again, gives other numbers.
    """
    arrays = program_arrays(recognizer)
    (directory / PROGRAM).write_bytes(_export(recognizer, arrays).serialize())
    save_file(arrays, directory / ARRAYS)
    size, num_classes = recognizer.card.image_size, len(recognizer.class_names)
    width = recognizer.card.clip_config.embed_dim
    description = describe(recognizer)
    description |= {
        "program": PROGRAM,
        "arrays": ARRAYS,
        "platforms": PLATFORMS,
        "crc32": {n: atomic.crc32(directory / n) for n in (PROGRAM, ARRAYS)},
        "inputs": {
            "arrays": "all arrays by name",
            "images": f"uint8 {description['images']}",
        },
        "outputs": {
            "probabilities": f"float32 [b, {num_classes}]",
            "features": f"float32 [b, {width}]",
        },
    }
    _write_json(directory / DESCRIPTION, description)
    text = _README.format(
        num_classes=num_classes,
        version=__version__,
        jax=jax.__version__,
        arrays=ARRAYS,
        program=PROGRAM,
        width=width,
        description=DESCRIPTION,
        size=size,
        platforms=", ".join(PLATFORMS),
        difference=compare(load_exported(directory), recognizer),
    )
    (directory / README).write_text(text, "utf-8")


def write_arrays(directory: Path, recognizer: Recognizer) -> None:
    """Writes all arrays under flat names as one `.npz`, and a description.

    Args:
      directory: empty directory.
      recognizer: the model.
    """
    flat = _flatten(recognizer.arrays)
    np.savez(directory / PLAIN_ARRAYS, allow_pickle=False, **flat)
    description = {**describe(recognizer), "arrays": PLAIN_ARRAYS}
    _write_json(directory / DESCRIPTION, description)


def load_exported(directory: str | Path) -> Callable[[Any], Outputs]:
    """Loads a program from a directory that :func:`write_program` filled.

    Returns:
      A function of uint8 images [b, H, W, 3] to `probabilities` [b, C] and `features`
      [b, D].

    Raises:
      ArtifactError: a file is missing or damaged.
    """
    directory = Path(directory)
    try:
        sums = strict_json.parse((directory / DESCRIPTION).read_bytes())["crc32"]
        for name in (PROGRAM, ARRAYS):  # XLA trusts a program's bytes
            if atomic.crc32(directory / name) != sums[name]:
                raise ValueError(f"{name} is not the file that was written")
        program = export.deserialize(bytearray((directory / PROGRAM).read_bytes()))
        arrays = jax.device_put(load_file(directory / ARRAYS))
    except Exception as error:  # flatbuffers and safetensors raise many kinds
        raise errors.lack(error) or ArtifactError(
            f"{directory} holds no exported program that can be read ({error}); export "
            "the run again, with --to=stablehlo"
        ) from error
    call = jax.jit(program.call)
    return lambda images: call(arrays, images)


def compare(exported: Callable[[Any], Outputs], recognizer: Recognizer) -> float:
    """Compares a program with the live model, on random images.

    Returns:
      The largest difference of probabilities, or of features relative to their largest.

    Raises:
      ArtifactError: the difference exceeds `TOLERANCE`.
    """
    rng = np.random.default_rng(0)
    size, worst = recognizer.card.image_size, 0.0
    live, arrays = jax.jit(recognizer.forward), jax.device_put(recognizer.arrays)
    for number in COMPARED_SIZES:
        images = rng.integers(0, 256, (number, size, size, 3), np.uint8)
        outputs = jax.device_get(exported(images))
        features, probabilities = jax.device_get(live(arrays, images))
        pairs = {"probabilities": probabilities, "features": features}
        for name, expected in pairs.items():
            difference = np.abs(outputs[name] - expected).max()
            difference /= max(1.0, float(np.abs(expected).max()))
            if not difference <= TOLERANCE:
                raise ArtifactError(
                    f"{name} of the exported program differ from the model's by "
                    f"{difference:.1e} on {number} random images; {TOLERANCE:.0e} is "
                    "allowed. Nothing was written"
                )
            worst = max(worst, float(difference))
    return worst


def program_arrays(recognizer: Recognizer) -> Flat:
    """Returns the program's arrays by flat names.

    They lack the text tower, which pictures do not need, and have anchor constants.
    """
    arrays = head.with_constants(recognizer.arrays)
    for name in arrays.keys() & {"anchors", "added"}:
        arrays[name]["constants"] = arrays[name]["constants"]._asdict()
    return {
        name: array
        for name, array in _flatten(arrays).items()
        if not name.startswith("towers/params/text/")
    }


def describe(recognizer: Recognizer) -> dict[str, Any]:
    """Returns the facts about pixels and classes that a user needs, as plain JSON."""
    card = recognizer.card
    share, half = transforms.EVAL_RECIPES[card.eval_recipe]
    mean, std = card.normalization
    return {
        "written_by": f"vl_ltr_jax {__version__}, JAX {jax.__version__}",
        "method": card.method,
        "backbone": card.backbone,
        "image_tower": dataclasses.asdict(card.clip_config.vision),
        "head": card.head,
        "image_size": card.image_size,
        "images": f"[b, {card.image_size}, {card.image_size}, 3]",
        "pixels": {
            "colours": "RGB, 0 to 255",
            "turned_by_exif": card.orientation == "exif",
            "shorter_side_resized_to": int(share * card.image_size),
            "filter": "bicubic, as in Pillow",
            "centre_crop": card.image_size,
            "half_a_pixel_of_the_crop": half,
            "mean": mean,
            "std": std,
            "normalised_by": "the program: (pixels / 255 - mean) / std",
        },
        "class_names": card.class_names,
    }


def _export(recognizer: Recognizer, arrays: Flat) -> export.Exported:
    """Returns the recognizer lowered for any number of images."""

    def recognize(arrays: dict[str, Array], images: UInt8[Array, "b H W 3"]) -> Outputs:
        nested = traverse_util.unflatten_dict(arrays, sep="/")
        for name in nested.keys() & {"anchors", "added"}:
            constants = lgr.AnchorConstants(**nested[name]["constants"])
            nested[name]["constants"] = constants
        features, probabilities = recognizer.forward(nested, images)
        return {"probabilities": probabilities, "features": features}

    (number,) = export.symbolic_shape("b")
    size = recognizer.card.image_size
    images = jax.ShapeDtypeStruct((number, size, size, 3), jnp.uint8)
    shapes = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in arrays.items()
    }
    return export.export(jax.jit(recognize), platforms=PLATFORMS)(shapes, images)


def _flatten(arrays: Mapping[str, Any]) -> Flat:
    flat = traverse_util.flatten_dict(arrays, sep="/")
    return {name: np.asarray(array, order="C") for name, array in flat.items()}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
