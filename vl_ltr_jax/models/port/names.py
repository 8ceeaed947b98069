"""The names of CLIP's tensors elsewhere, and the strict match with ours.

Three families are understood: Hugging Face's (`CLIPModel.save_pretrained`), OpenAI's
(`clip/model.py`, open_clip and the authors' CVLP) and the authors' LGR. As our modules
bear OpenAI's names, each family is a short table of rewritings of our paths. The match
is strict both ways: every parameter must be found and every tensor used, but for the
few of `ALLOWED` that have no effect.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from vl_ltr_jax.models.clip import ClipConfig, variable_shapes
from vl_ltr_jax.runtime.errors import UserError

Names = tuple[tuple[str, str], ...]
_Path = tuple[str, ...]

# Each rule (pattern, replacement) rewrites a path such as text/resblocks_0/ln_1/scale.
HUGGING_FACE: Names = (
    (r"^visual/proj/", "visual_projection/"),
    (r"^text/text_projection/", "text_projection/"),
    (r"^visual/", "vision_model/"),
    (r"^text/", "text_model/"),
    (r"/(class|token)_embedding", r"/embeddings/\1_embedding"),
    (r"/positional_embedding", "/embeddings/position_embedding/weight"),
    (r"/conv1/", "/embeddings/patch_embedding/"),
    (r"/ln_pre/", "/pre_layrnorm/"),  # the spelling of their files
    (r"/ln_post/", "/post_layernorm/"),
    (r"/ln_final/", "/final_layer_norm/"),
    (r"/resblocks_", "/encoder/layers/"),
    (r"/ln_(\d)/", r"/layer_norm\1/"),
    (r"/attn/", "/self_attn/"),
    (r"/c_fc/", "/fc1/"),
    (r"/c_proj/", "/fc2/"),
)
OPENAI: Names = (
    (r"^visual/proj/kernel", "visual/proj"),
    (r"^text/text_projection/kernel", "text_projection"),
    (r"^visual/resblocks_", "visual/transformer/resblocks/"),
    (r"^text/resblocks_", "transformer/resblocks/"),
    (r"^text/", ""),
    (r"/attn/[qkv]_proj/kernel", "/attn/in_proj_weight"),
    (r"/attn/[qkv]_proj/bias", "/attn/in_proj_bias"),
    (r"/(layer\d)_", r"/\1/"),
    (r"/downsample_conv/", "/downsample/0/"),
    (r"/downsample_bn/", "/downsample/1/"),
)
VL_LTR: Names = (
    (r"^head/(norm1q/.*|norm1k|wq|wk)$", r"text_block/attn/\1"),
    (r"/(norm1k|wq|wk)$", r"/\1/weight"),
    (r"^head/visual_fc/fc1/", "text_block/visual_fc/0/"),
    (r"^head/visual_fc/fc2/", "text_block/visual_fc/2/"),
    *OPENAI,
)
_LEAVES: Names = (
    (r"/(kernel|scale|embedding)$", "/weight"),
    (r"/(mean|var)$", r"/running_\1"),
    (r"/", "."),
)

# Tensors of published files that may be left over, and what they are.
ALLOWED = {
    "positions 0, 1, 2, ...": r"\.position_ids$",
    "BatchNorm's step count": r"\.num_batches_tracked$",
    "sizes in OpenAI's archives": r"^(input_resolution|context_length|vocab_size)$",
    "the key's LayerNorm bias, which the softmax cancels": r"\.norm1k\.bias$",
}


class WeightMismatchError(UserError):
    """The tensors given are not those of the model; the message lists every one."""


def _tensor_name(path: _Path, names: Names) -> str:
    name = "/".join(path[1:])  # without the collection
    for pattern, replacement in names + _LEAVES:
        name = re.sub(pattern, replacement, name)
    return name


def _table(paths: Iterable[_Path], names: Names) -> dict[str, list[_Path]]:
    """Tensor name -> our paths: one, or query, key and value of a fused projection."""
    table: dict[str, list[_Path]] = {}
    for path in paths:
        table.setdefault(_tensor_name(path, names), []).append(path)
    for fused in table.values():
        if len(fused) == 3:
            fused.sort(key=lambda path: "qkv".index(path[-2][0]))
    return table


def _is_transposed(path: _Path, name: str) -> bool:
    """PyTorch's weights are [out, in, ...]; OpenAI's bare projections are as ours."""
    return path[-1] in ("kernel", "wq", "wk") and name.endswith("weight")


def _to_tensor(arrays: list[np.ndarray], path: _Path, name: str) -> np.ndarray:
    if _is_transposed(path, name):
        arrays = [np.moveaxis(array, (-1, -2), (0, 1)) for array in arrays]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def to_tensors(
    variables: Mapping[str, Any], names: Names, dtype: DTypeLike = np.float32
) -> dict[str, np.ndarray]:
    """Our variables as the named tensors of a family.

    Args:
        variables: Those of `Clip`, or of some of its branches, or with a branch `head`.
        names: `HUGGING_FACE`, `OPENAI` or `VL_LTR`.
        dtype: That of the tensors.
    """
    flat = flatten_dict(dict(variables))
    return {
        name: np.array(
            _to_tensor([np.asarray(flat[path]) for path in paths], paths[0], name),
            dtype=dtype,
            order="C",
        )
        for name, paths in _table(flat, names).items()
    }


def batch_counters(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """BatchNorm's step counts, which PyTorch's modules ask for; all are zero."""
    return {
        name.removesuffix("running_mean") + "num_batches_tracked": np.zeros((), int)
        for name in tensors
        if name.endswith(".running_mean")
    }


def tensor_shapes(
    shapes: Mapping[str, Any], names: Names
) -> dict[str, tuple[int, ...]]:
    """The tensors that a family has for a model: name -> shape.

    Args:
        shapes: The model's variables, as anything with a shape.
        names: The family.
    """
    flat = flatten_dict(dict(shapes))
    return {
        name: _to_tensor(
            [np.broadcast_to(np.float32(0), flat[path].shape) for path in paths],
            paths[0],
            name,
        ).shape
        for name, paths in _table(flat, names).items()
    }


def places(shapes: Mapping[str, Any], names: Names) -> dict[str, str]:
    """Where each tensor of a family goes: name -> our path, `q|k|v` where fused."""
    places = {}
    for name, paths in _table(flatten_dict(dict(shapes)), names).items():
        ends = "|".join(path[-2][0] for path in paths) if len(paths) == 3 else ""
        here = "/".join(paths[0][1:])
        places[name] = here.replace("/q_proj/", f"/{ends}_proj/") if ends else here
    return places


def from_tensors(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    names: Names,
    source: str,
) -> dict[str, Any]:
    """Variables, as float32 arrays, from the named tensors of a family.

    Args:
        tensors: Name -> array, of any floating dtype.
        shapes: The variables to make, as anything with a shape: `variable_shapes`.
        names: `HUGGING_FACE`, `OPENAI` or `VL_LTR`.
        source: Where the tensors come from, for the error.

    Raises:
        WeightMismatchError: If tensors are missing, unknown or of another shape.
    """
    table = _table(flatten_dict(dict(shapes)), names)
    check_match(
        tensor_shapes(shapes, names),
        {name: array.shape for name, array in tensors.items()},
        source,
    )
    _check_values({name: tensors[name] for name in table}, source)
    flat = {}
    for name, fused in table.items():
        tensor = tensors[name]
        parts = np.split(tensor, len(fused)) if len(fused) > 1 else [tensor]
        for path, part in zip(fused, parts, strict=True):
            if _is_transposed(path, name):
                part = np.moveaxis(part, (0, 1), (-1, -2))
            flat[path] = np.array(part, dtype=np.float32, order="C")
    return unflatten_dict(flat)


def from_openai(state: Mapping[str, np.ndarray], config: ClipConfig) -> dict[str, Any]:
    """The variables of `Clip` from a state dict of OpenAI's `clip/model.py`.

    Raises:
        WeightMismatchError: If tensors are missing, unknown or of another shape.
    """
    return from_tensors(state, variable_shapes(config), OPENAI, "the state dict")


def allowance(name: str) -> str | None:
    """What a tensor is that may be left over; None for one that may not."""
    found = (what for what, pattern in ALLOWED.items() if re.search(pattern, name))
    return next(found, None)


def _check_values(tensors: Mapping[str, Any], source: str) -> None:
    faults = []
    for name, tensor in tensors.items():
        # `np.floating` leaves out bfloat16.
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            faults.append(f"{name} is of {tensor.dtype}, not of a floating dtype")
        elif not np.isfinite(tensor).all():
            faults.append(f"{name} holds numbers that are not finite")
    if faults:
        raise WeightMismatchError(
            f"{source} is damaged, {len(faults)} tensors:\n    " + "\n    ".join(faults)
        )


def check_match(
    expected: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    source: str,
) -> None:
    """Compares names and shapes, both ways.

    Raises:
        WeightMismatchError: Listing every tensor missing, unknown or misshapen.
    """
    missing = sorted(expected.keys() - given.keys())
    extra = sorted(
        name for name in given.keys() - expected.keys() if allowance(name) is None
    )
    misshapen = [
        name
        for name in sorted(expected.keys() & given.keys())
        if expected[name] != given[name]
    ]
    if not (missing or extra or misshapen):
        return

    def nearest(name: str, others: list[str]) -> str:
        found = difflib.get_close_matches(name, others, n=1)
        return f" (nearest: {found[0]})" if found else ""

    lines = [f"{source} does not hold this model:"]
    for title, entries in (
        (
            "missing",
            [
                f"{name} {list(expected[name])}{nearest(name, extra)}"
                for name in missing
            ],
        ),
        (
            "unknown",
            [f"{name} {list(given[name])}{nearest(name, missing)}" for name in extra],
        ),
        (
            "of another shape",
            [
                f"{name} {list(given[name])}, the model's is {list(expected[name])}"
                for name in misshapen
            ],
        ),
    ):
        if entries:
            lines.append(f"  {len(entries)} {title}:")
            lines.extend(f"    {entry}" for entry in entries)
    raise WeightMismatchError("\n".join(lines))
