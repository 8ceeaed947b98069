"""A recognizer as a program that JAX alone can run, or as plain arrays.

The program is StableHLO, for any number of pictures at once and for CPU, CUDA and TPU
alike; its arrays lie beside it. Both are bound to nothing of this package.
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
_HOW_TO_CALL = """\
import jax, jax.export, numpy, pathlib
from safetensors.numpy import load_file
arrays = load_file("{arrays}")
program = jax.export.deserialize(pathlib.Path("{program}").read_bytes())
images = numpy.zeros((2, {size}, {size}, 3), numpy.uint8)
print(jax.jit(program.call)(arrays, images)["probabilities"])
"""
_README = """\
A recognizer of {num_classes} classes, written by vl_ltr_jax {version} with JAX {jax}.
This loads it and calls it in this directory, on any number of pictures:

{how_to_call}
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
      directory: there, and empty.
      recognizer: the model.

    Raises:
      ArtifactError: if what was written, loaded again, gives other numbers.
    """
    arrays = program_arrays(recognizer)
    (directory / PROGRAM).write_bytes(_export(recognizer, arrays).serialize())
    save_file(arrays, directory / ARRAYS)
    described = describe(recognizer)
    described |= {
        "program": PROGRAM,
        "arrays": ARRAYS,
        "platforms": PLATFORMS,
        "crc32": {n: atomic.crc32(directory / n) for n in (PROGRAM, ARRAYS)},
        "inputs": {
            "arrays": "all arrays by name",
            "images": f"uint8 {described['images']}",
        },
        "outputs": {
            "probabilities": f"float32 [b, {len(recognizer.class_names)}]",
            "features": f"float32 [b, {recognizer.card.clip_config.embed_dim}]",
        },
    }
    _write_json(directory / DESCRIPTION, described)
    (directory / README).write_text(
        _README.format(
            num_classes=len(recognizer.class_names),
            version=__version__,
            jax=jax.__version__,
            how_to_call=_HOW_TO_CALL.format(
                arrays=ARRAYS, program=PROGRAM, size=recognizer.card.image_size
            ),
            width=recognizer.card.clip_config.embed_dim,
            description=DESCRIPTION,
            size=recognizer.card.image_size,
            platforms=", ".join(PLATFORMS),
            difference=compare(load_exported(directory), recognizer),
        ),
        encoding="utf-8",
    )


def write_arrays(directory: Path, recognizer: Recognizer) -> None:
    """Writes all arrays under flat names as one `.npz`, and a description.

    Args:
      directory: there, and empty.
      recognizer: the model.
    """
    flat = _flatten(recognizer.arrays)
    np.savez(directory / PLAIN_ARRAYS, allow_pickle=False, **flat)
    described = {**describe(recognizer), "arrays": PLAIN_ARRAYS}
    _write_json(directory / DESCRIPTION, described)


def load_exported(directory: str | Path) -> Callable[[Any], Outputs]:
    """Loads a program.

    Args:
      directory: what :func:`write_program` filled.

    Returns:
      A function of uint8 images [b, H, W, 3] to `probabilities` [b, C] and `features`
      [b, D].

    Raises:
      ArtifactError: if a file is missing or damaged.
    """
    directory = Path(directory)
    try:
        saved = strict_json.parse((directory / DESCRIPTION).read_bytes())["crc32"]
        for name in (PROGRAM, ARRAYS):  # XLA trusts a program's bytes
            if atomic.crc32(directory / name) != saved[name]:
                raise ValueError(f"{name} is not what was written")
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
    """Holds a program against the live model, on random images.

    Returns:
      The largest difference, of probabilities or of features in units of their largest.

    Raises:
      ArtifactError: if it is beyond `TOLERANCE`.
    """
    rng = np.random.default_rng(0)
    size, worst = recognizer.card.image_size, 0.0
    live, arrays = jax.jit(recognizer.forward), jax.device_put(recognizer.arrays)
    for number in COMPARED_SIZES:
        images = rng.integers(0, 256, (number, size, size, 3), np.uint8)
        found = jax.device_get(exported(images))
        features, probabilities = jax.device_get(live(arrays, images))
        pairs = {"probabilities": probabilities, "features": features}
        for name, wanted in pairs.items():
            difference = np.abs(found[name] - wanted).max()
            difference /= max(1.0, float(np.abs(wanted).max()))
            if not difference <= TOLERANCE:
                raise ArtifactError(
                    f"the exported program gives other {name} than the model: by "
                    f"{difference:.1e} on {number} random images, where "
                    f"{TOLERANCE:.0e} is allowed; nothing was written"
                )
            worst = max(worst, float(difference))
    return worst


def program_arrays(recognizer: Recognizer) -> Flat:
    """What the program reads, by flat names.

    Without the text tower, which no picture meets, and with what is computed once of
    the anchors.
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
    """What a user of the arrays must know of pixels and classes; plain JSON."""
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
    """Lowers the recognizer for any number of images."""

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
