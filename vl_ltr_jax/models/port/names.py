"""Names of CLIP's tensors in other programs, and the strict match with ours.

Three families are known: Hugging Face's (`CLIPModel.save_pretrained`), OpenAI's
(`clip/model.py`, open_clip and the authors' CVLP) and the authors' LGR. Our modules
have OpenAI's names, so each family is a short table of rewritings of our paths. The
match is strict both ways: every parameter is found and every tensor used, except those
of `ALLOWED`, which have no effect.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

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
TORCHVISION: Names = (  # and timm's, for the same networks
    (r"^visual/", ""),
    (r"^(layer\d)_", r"\1/"),
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

# Meaning -> pattern of the tensors of published files that may remain unused.
ALLOWED = {
    "positions 0, 1, 2, ...": r"\.position_ids$",
    "BatchNorm's step count": r"\.num_batches_tracked$",
    "sizes in OpenAI's archives": r"^(input_resolution|context_length|vocab_size)$",
    "the key's LayerNorm bias, which the softmax cancels": r"\.norm1k\.bias$",
}


class WeightMismatchError(UserError):
    """Tensors that are not those of the model; the message lists every one."""


def _tensor_name(path: _Path, names: Names) -> str:
    name = "/".join(path[1:])  # without the collection
    for pattern, replacement in names + _LEAVES:
        name = re.sub(pattern, replacement, name)
    return name


def _table(paths: Iterable[_Path], names: Names) -> dict[str, list[_Path]]:
    """Returns our paths by tensor name; three, q, k and v, for a fused projection."""
    table: dict[str, list[_Path]] = {}
    for path in paths:
        table.setdefault(_tensor_name(path, names), []).append(path)
    for fused in table.values():
        if len(fused) == 3:
            fused.sort(key=lambda path: "qkv".index(path[-2][0]))
    return table


def _is_transposed(path: _Path, name: str) -> bool:
    """Returns True for PyTorch's [out, in, ...]; bare projections are as ours."""
    return path[-1] in ("kernel", "wq", "wk") and name.endswith("weight")


def _to_tensor(arrays: list[np.ndarray], path: _Path, name: str) -> np.ndarray:
    if _is_transposed(path, name):
        arrays = [np.moveaxis(array, (-1, -2), (0, 1)) for array in arrays]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def to_tensors(
    variables: Mapping[str, Any], names: Names, dtype: DTypeLike = np.float32
) -> dict[str, np.ndarray]:
    """Returns our variables as the named tensors of a family.

    Args:
      variables: those of `Clip`, or some of its branches, or with a branch `head`.
      names: `HUGGING_FACE`, `OPENAI` or `VL_LTR`.
      dtype: dtype of the tensors.
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
    """Returns BatchNorm's step counts, all zero; PyTorch's modules require them."""
    return {
        name.removesuffix("running_mean") + "num_batches_tracked": np.zeros((), int)
        for name in tensors
        if name.endswith(".running_mean")
    }


def tensor_shapes(
    shapes: Mapping[str, Any], names: Names
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor that a family has for a model.

    Args:
      shapes: variables of the model, as anything with a shape.
      names: the family.
    """
    zeros = {
        path: np.broadcast_to(np.float32(0), leaf.shape)
        for path, leaf in flatten_dict(dict(shapes)).items()
    }
    return {
        name: _to_tensor([zeros[path] for path in paths], paths[0], name).shape
        for name, paths in _table(zeros, names).items()
    }


def places(shapes: Mapping[str, Any], names: Names) -> dict[str, str]:
    """Returns our path of each tensor of a family, with `qkv` where fused."""
    return {
        name: "/".join(paths[0][1:]).replace(
            "/q_proj/", "/q|k|v_proj/" if len(paths) == 3 else "/q_proj/"
        )
        for name, paths in _table(flatten_dict(dict(shapes)), names).items()
    }


def from_tensors(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Any],
    names: Names,
    source: str,
) -> dict[str, Any]:
    """Returns variables, as float32 arrays, from the named tensors of a family.

    Args:
      tensors: name -> array, of any floating dtype.
      shapes: variables of the model, as anything with a shape: `variable_shapes`.
      names: `HUGGING_FACE`, `OPENAI` or `VL_LTR`.
      source: path of the file, for errors.

    Raises:
      WeightMismatchError: tensors are missing, unknown, of another shape or dtype, or
        not finite.
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
        parts = (
            np.split(tensors[name], len(fused)) if len(fused) > 1 else [tensors[name]]
        )
        for path, part in zip(fused, parts, strict=True):
            if _is_transposed(path, name):
                part = np.moveaxis(part, (0, 1), (-1, -2))
            flat[path] = np.array(part, dtype=np.float32, order="C")
    return unflatten_dict(flat)


def allowance(name: str) -> str | None:
    """Returns the meaning of a tensor that may remain unused; None for any other."""
    meanings = (text for text, pattern in ALLOWED.items() if re.search(pattern, name))
    return next(meanings, None)


def _check_values(tensors: Mapping[str, Any], source: str) -> None:
    faults = []
    for name, tensor in tensors.items():
        # `np.floating` does not include bfloat16.
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
    actual: Mapping[str, tuple[int, ...]],
    source: str,
) -> None:
    """Compares names and shapes, both ways.

    Raises:
      WeightMismatchError: lists every tensor that is missing, unknown or misshapen.
    """
    missing = sorted(expected.keys() - actual.keys())
    unknown = sorted(
        name for name in actual.keys() - expected.keys() if allowance(name) is None
    )

    def entry(name: str, shape: tuple[int, ...], candidates: list[str]) -> str:
        near = difflib.get_close_matches(name, candidates, n=1)
        return f"{name} {list(shape)}" + (f" (nearest: {near[0]})" if near else "")

    groups = {
        "missing": [entry(name, expected[name], unknown) for name in missing],
        "unknown": [entry(name, actual[name], missing) for name in unknown],
        "of another shape": [
            f"{name} {list(actual[name])}, the model's is {list(expected[name])}"
            for name in sorted(expected.keys() & actual.keys())
            if expected[name] != actual[name]
        ],
    }
    lines = [
        line
        for title, entries in groups.items()
        if entries
        for line in (f"  {len(entries)} {title}:", *(f"    {e}" for e in entries))
    ]
    if lines:
        raise WeightMismatchError(
            "\n".join([f"{source} does not fit the model:", *lines])
        )
