"""A list of the tensors of a file, and of the facts that a reader of them needs."""

import collections

from vl_ltr_jax.models.clip import VisionConfig, variable_shapes
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
    """Returns a list of a source's tensors and of the place of each.

    Args:
      source: directory, file or hub id.
      activation: see :func:`clip_files.find_clip`; not required here.
      head_width: see :func:`clip_files.find_clip`.

    Raises:
      UserError: the source is damaged, or not exactly a known model.
    """
    path = clip_files.find_weights(source)
    tensors = read_tensors(path)
    if vl_ltr_files.kind_of(tensors) == "LGR":
        released = vl_ltr_files.from_tensors(tensors, str(path))
        family, (classes, anchors, width) = "vl_ltr", tensors["text_embeddings"].shape
        shapes = vl_ltr_files.lgr_shapes(released.vision, width, classes)
        facts = [
            _vision(released.vision, released.vision.activation),
            f"embeddings of width {width}",
            f"{classes} classes with up to {anchors} anchor sentences each",
        ]
    else:
        unknown: tuple[str, ...] = ()
        try:
            file = clip_files.find_clip(source, activation, head_width)
        except clip_files.UnknownActivationError as error:
            file = clip_files.find_clip(source, "quick_gelu", head_width)
            unknown = (str(error),)
        clip_files.from_file(file, tensors)
        family = "hf" if file.names is HUGGING_FACE else "openai"
        shapes = variable_shapes(file.config)
        facts = _facts(file, is_known=not unknown)
        facts += [f"note: {note}" for note in (*unknown, *file.notes)]
    place_of = places(shapes, FAMILIES[family]) | {"text_embeddings": "anchors"}
    used = {name: tensor for name, tensor in tensors.items() if name in place_of}
    count = sum(tensor.size for tensor in used.values())
    dtypes = collections.Counter(str(tensor.dtype) for tensor in used.values())
    return "\n".join(
        [
            f"{path}",
            _TITLES[family],
            *(f"  {fact}" for fact in facts),
            f"  {count:,} numbers in {len(used)} tensors, "
            + ", ".join(f"{number} of {kind}" for kind, number in dtypes.most_common()),
            *(
                f"{name}  {list(tensor.shape)} {tensor.dtype} -> {place_of[name]}"
                for name, tensor in used.items()
            ),
            *(
                f"{name}  {list(tensor.shape)} {tensor.dtype} unused: {allowance(name)}"
                for name, tensor in tensors.items()
                if name not in used
            ),
        ]
    )


def _vision(vision: VisionConfig, activation: str) -> str:
    kind, mlp = "ResNet", ""
    if vision.patch_size:
        kind = f"ViT, patches of {vision.patch_size}"
        mlp = f", MLPs of {vision.mlp_width} with {activation}"
    return (
        f"image tower: {kind}, {vision.image_size} pixels, width {vision.width}, "
        f"layers {vision.layers}, heads {vision.heads}{mlp}"
    )


def _facts(file: clip_files.ClipFile, *, is_known: bool) -> list[str]:
    config, processor = file.config, file.preprocessing
    pixels = "pixels: no file describes them"
    if processor is not None:
        mean, std = processor.normalization
        pixels = (
            f"pixels: {processor.image_size} of {processor.shorter_side}, "
            f"{processor.interpolation}, {processor.resize}, mean {list(mean)}, "
            f"std {list(std)}"
        )
    vision, text = config.vision, config.text
    unknown = "" if is_known else "an unknown activation"
    return [
        _vision(vision, unknown or vision.activation),
        f"text tower: width {text.width}, layers {text.layers}, heads {text.heads}, "
        f"MLPs of {text.mlp_width} with {unknown or text.activation}, "
        f"{text.context_length} tokens, vocabulary {text.vocab_size}",
        f"embeddings of width {config.embed_dim}",
        pixels,
    ]
