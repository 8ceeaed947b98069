"""The authors' released checkpoints: CVLP, both towers; LGR, image tower and head.

Either is a `checkpoint.pth` of their training script or the same state dict as
safetensors. The `_v_detach_img_grad` models differ in how they were trained, not in
what they hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from vl_ltr_jax.models.clip import ClipConfig, TextConfig, VisionConfig, variable_shapes
from vl_ltr_jax.models.lgr import head_shapes
from vl_ltr_jax.models.port import names as weights
from vl_ltr_jax.models.port import open_clip
from vl_ltr_jax.models.port.positions import resize_tower
from vl_ltr_jax.models.port.sizes import (
    OPENAI_DETAILS,
    Details,
    ModelFileError,
    from_shapes,
    vision_from_shapes,
)
from vl_ltr_jax.models.port.tensor_files import read_tensors

_TEXT_EMBEDDINGS = "text_embeddings"
_HEAD = "text_block."


@dataclass(frozen=True)
class ReleasedHead:
    """Head and anchors of a released LGR, as float32 numpy arrays.

    Attributes:
      params: those of `LanguageGuidedHead`.
      anchors: embeddings of the anchor sentences, zero for padding.
      padding: True where a class has no such anchor.
    """

    params: dict[str, Any]
    anchors: Float[np.ndarray, "C M D"]
    padding: Bool[np.ndarray, "C M"]


@dataclass(frozen=True)
class Released:
    """Content of a checkpoint of the authors.

    Attributes:
      vision: sizes of the image tower.
      embed_dim: D.
      variables: those of `Clip`; without the branch `text` for an LGR.
      text: sizes of the text tower, for a CVLP.
      released_head: head and anchors, for an LGR.
    """

    vision: VisionConfig
    embed_dim: int
    variables: dict[str, Any]
    text: TextConfig | None = None
    released_head: ReleasedHead | None = None

    def at_image_size(self, image_size: int) -> "Released":
        """Returns the model with positions interpolated for another image size."""
        params = self.variables["params"]
        vision, visual = resize_tower(params["visual"], self.vision, image_size)
        variables = {**self.variables, "params": {**params, "visual": visual}}
        return replace(self, vision=vision, variables=variables)


def kind_of(names: Mapping[str, Any]) -> Literal["CVLP", "LGR"]:
    """Returns the kind of model that has tensors of these names."""
    return "LGR" if any(name.startswith(_HEAD) for name in names) else "CVLP"


def load(path: str | Path, details: Details = OPENAI_DETAILS) -> Released:
    """Reads a checkpoint of the authors.

    An anchor whose embedding is zero is padding: the authors pad their tables with
    zeros, and no sentence has that embedding.

    Args:
      path: `checkpoint.pth`, or its state dict as safetensors.
      details: facts that shapes do not show; OpenAI's for the authors' models.

    Raises:
      WeightMismatchError: tensors are missing, unknown or of another shape.
      ModelFileError: the file is missing, damaged, or of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(
            f"{path}: no such file. Name a checkpoint.pth of VL-LTR, or its state dict "
            "as safetensors"
        )
    settings = path.with_name(open_clip.SETTINGS)
    if settings.is_file():
        raise ModelFileError(
            f"init.vl_ltr={path}: {settings.name} next to it describes a model of "
            "open_clip. Name it by init.clip, or move the checkpoint away"
        )
    return from_tensors(read_tensors(path), str(path), details)


def from_tensors(
    tensors: Mapping[str, np.ndarray], source: str, details: Details = OPENAI_DETAILS
) -> Released:
    """Returns the result of :func:`load` from tensors in memory.

    Errors name the `source`.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if kind_of(tensors) == "CVLP":
        config = from_shapes(shapes, source, details)
        variables = weights.from_tensors(
            tensors, variable_shapes(config), weights.OPENAI, source
        )
        return Released(config.vision, config.embed_dim, variables, text=config.text)

    vision, embed_dim = vision_from_shapes(shapes, source, details)
    anchors = tensors.get(_TEXT_EMBEDDINGS)
    if anchors is None or anchors.ndim != 3 or anchors.shape[2] != embed_dim:
        raise weights.WeightMismatchError(
            f"{source}: {_TEXT_EMBEDDINGS} is "
            f"{'missing' if anchors is None else list(anchors.shape)}, not [classes, "
            f"sentences, {embed_dim}]. Download the file again"
        )
    anchors = np.array(anchors, np.float32)
    expected = lgr_shapes(vision, embed_dim, len(anchors))
    model = {name: tensors[name] for name in tensors.keys() - {_TEXT_EMBEDDINGS}}
    variables = weights.from_tensors(model, expected, weights.VL_LTR, source)
    head = variables["params"].pop("head")
    padding = np.asarray(~anchors.any(axis=-1))
    released_head = ReleasedHead(head, anchors, padding)
    return Released(vision, embed_dim, variables, released_head=released_head)


def lgr_shapes(
    vision: VisionConfig, embed_dim: int, num_classes: int
) -> dict[str, Any]:
    """Returns the variables of an LGR as shapes: image tower, logit scale, head."""
    one_token = TextConfig(64, 1, 1, context_length=1, vocab_size=1)
    shapes = variable_shapes(ClipConfig(vision, one_token, embed_dim))
    params = {name: shapes["params"][name] for name in ("visual", "logit_scale")}
    head = head_shapes(num_classes, embed_dim)
    return {**shapes, "params": {**params, "head": head}}


def lgr_tensors(
    variables: Mapping[str, Any], released_head: ReleasedHead
) -> dict[str, np.ndarray]:
    """Returns an LGR as the authors' state dict, which their code loads strictly.

    Args:
      variables: those of `Clip`; the text tower is left out.
      released_head: head and anchors.
    """
    params = {**variables["params"], "head": released_head.params}
    params.pop("text", None)
    tensors = weights.to_tensors({**variables, "params": params}, weights.VL_LTR)
    anchors = np.array(released_head.anchors, np.float32)
    # Their key's LayerNorm has a bias, which the softmax cancels.
    tensors[f"{_HEAD}attn.norm1k.bias"] = np.zeros(anchors.shape[-1], np.float32)
    tensors[_TEXT_EMBEDDINGS] = anchors
    return tensors | weights.batch_counters(tensors)
