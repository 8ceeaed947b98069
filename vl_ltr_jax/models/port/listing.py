"""A list of the tensors of a file, with the facts that a reader of them must know."""

import collections

from vl_ltr_jax.models.clip import TextConfig, VisionConfig, variable_shapes
from vl_ltr_jax.models.layers import Activation
from vl_ltr_jax.models.port import clip_files, vl_ltr_files
from vl_ltr_jax.models.port.names import HUGGING_FACE, OPENAI, VL_LTR, allowance, places
from vl_ltr_jax.models.port.tensor_files import read_tensors

FAMILIES = {"hf": HUGGING_FACE, "openai": OPENAI, "vl_ltr": VL_LTR}
_TITLES = {
    "hf": "CLIP, Hugging Face's names",
    "openai": "CLIP, OpenAI's names",
    "vl_ltr": "LGR, VL-LTR's names",
}


def inspect(
    source: str,
    *,
    activation: Activation | None = None,
    head_width: int | None = None,
) -> str:
    """A list of a source's tensors and of the place of each.

    Args:
        source: A directory, a file or a hub id.
        activation: As `clip_files.find_clip`; the list does without.
        head_width: As `clip_files.find_clip`.

    Raises:
        UserError: If it is broken, or not exactly a model known here.
    """
    path = clip_files.find_weights(source)
    tensors = read_tensors(path)
    if vl_ltr_files.kind_of(tensors) == "LGR":
        released = vl_ltr_files.from_tensors(tensors, str(path))
        family, (classes, anchors, width) = "vl_ltr", tensors["text_embeddings"].shape
        shapes = vl_ltr_files.lgr_shapes(released.vision, width, classes)
        sizes = [
            _vision(released.vision),
            f"embeddings of width {width}",
            f"{classes} classes with up to {anchors} anchor sentences each",
        ]
    else:
        unknown: tuple[str, ...] = ()
        try:
            found = clip_files.find_clip(
                source, activation=activation, head_width=head_width
            )
        except clip_files.UnknownActivationError as error:
            unknown = (str(error),)
            found = clip_files.find_clip(
                source, activation="quick_gelu", head_width=head_width
            )
        clip_files.from_file(found, tensors)
        family = "hf" if found.names is HUGGING_FACE else "openai"
        shapes = variable_shapes(found.config)
        sizes = _facts(found, is_known=not unknown)
        sizes += [f"note: {note}" for note in (*unknown, *found.notes)]
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


def _vision(vision: VisionConfig, *, is_known: bool = True) -> str:
    kind = f"ViT, patches of {vision.patch_size}" if vision.patch_size else "ResNet"
    return (
        f"image tower: {kind}, {vision.image_size} pixels, width {vision.width}, "
        f"layers {vision.layers}, heads {vision.heads}"
        + (_mlp(vision, is_known) if vision.patch_size else "")
    )


def _mlp(tower: VisionConfig | TextConfig, is_known: bool) -> str:
    activation = tower.activation if is_known else "an unknown activation"
    return f", MLPs of {tower.mlp_width} with {activation}"


def _facts(found: clip_files.ClipFile, *, is_known: bool) -> list[str]:
    config, pixels = found.config, found.preprocessing
    text, shown = config.text, "pixels: no file says how they are made"
    if pixels is not None:
        mean, std = pixels.normalization
        shown = (
            f"pixels: {pixels.image_size} of {pixels.shorter_side}, "
            f"{pixels.interpolation}, {pixels.resize}, mean {list(mean)}, "
            f"std {list(std)}"
        )
    return [
        _vision(config.vision, is_known=is_known),
        f"text tower: width {text.width}, layers {text.layers}, heads {text.heads}"
        f"{_mlp(text, is_known)}, {text.context_length} tokens, "
        f"vocabulary {text.vocab_size}",
        f"embeddings of width {config.embed_dim}",
        shown,
    ]
