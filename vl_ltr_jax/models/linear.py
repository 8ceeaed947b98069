"""Heads that are linear in the image embedding: FC, cosine, and scaled FC."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Float32, Key

from vl_ltr_jax.method.losses import unit


class LinearHead(nn.Module):
    """Linear classifier, the FC head of the paper's ablation; float32 logits.

    Attributes:
      num_classes: number of classes, C.
      dtype: compute dtype; parameters are float32.
      initial_bias: bias of each class before training.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    initial_bias: float = 0.0

    @nn.compact
    def __call__(self, image_features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Returns one logit per class."""
        visual_fc = nn.Dense(
            self.num_classes,
            dtype=self.dtype,
            bias_init=nn.initializers.constant(self.initial_bias),
            name="visual_fc",
        )
        return visual_fc(image_features).astype(jnp.float32)


def draw_as_torch(
    key: Key[Array, ""], width: int, num_classes: int
) -> dict[str, dict[str, Float[Array, "..."]]]:
    """Returns parameters of a LinearHead, drawn as `torch.nn.Linear` draws its own.

    Weights and biases are uniform between -1 / sqrt(D) and 1 / sqrt(D).

    Args:
      key: random key.
      width: D.
      num_classes: C.
    """
    for_kernel, for_bias = jax.random.split(key)
    shape, bound = (width, num_classes), width**-0.5
    return {
        "visual_fc": {
            "kernel": jax.random.uniform(
                for_kernel, shape, minval=-bound, maxval=bound
            ),
            "bias": jax.random.uniform(
                for_bias, shape[1:], minval=-bound, maxval=bound
            ),
        }
    }


class CosineHead(nn.Module):
    """Cosines to one vector per class, as LDAM is trained with (Cao et al., 2019).

    Attributes:
      num_classes: number of classes, C.
    """

    num_classes: int

    @nn.compact
    def __call__(self, image_features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Returns one cosine per class, in float32."""
        shape = (image_features.shape[-1], self.num_classes)
        kernel = self.param("visual_kernel", nn.initializers.lecun_normal(), shape)
        return jnp.matmul(unit(image_features), unit(kernel.T).T, precision="highest")


class ScaledHead(nn.Module):
    """An FC head with a factor for each class: f_c (w_c x + b_c), as LWS trains.

    Attributes:
      num_classes: number of classes, C.
      dtype: compute dtype; parameters are float32.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image_features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Returns one logit per class."""
        ones = nn.initializers.ones_init()
        scales = self.param("visual_scales", ones, (self.num_classes,))
        visual_fc = nn.Dense(self.num_classes, dtype=self.dtype, name="visual_fc")
        return scales[None, :] * visual_fc(image_features).astype(jnp.float32)


def scores(
    arrays: Mapping[str, Float[Array, "..."]], features: Float[Array, "B D"]
) -> Float[Array, "B C"]:
    """Returns the scores of a linear classifier.

    Args:
      arrays: `kernel` [D, C] and `bias` [C]. With `centre` [D], features minus it are
        scaled to length 1.
      features: image embeddings.
    """
    features = features.astype(jnp.float32)
    if "centre" in arrays:
        features = unit(features - arrays["centre"][None, :])
    product = jnp.matmul(features, arrays["kernel"], precision="highest")
    return product + arrays["bias"][None, :]


def as_arrays(
    params: Mapping[str, Any], scale: float
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Returns a trained head as arrays for :func:`scores`.

    Args:
      params: parameters of a LinearHead or a CosineHead.
      scale: factor of the scores.
    """
    if "visual_fc" in params:
        layer = params["visual_fc"]
        arrays = {"kernel": scale * layer["kernel"], "bias": scale * layer["bias"]}
    else:
        kernel = np.asarray(unit(jnp.asarray(params["visual_kernel"]).T).T)
        width, num_classes = kernel.shape
        arrays = {
            "kernel": scale * kernel,
            "bias": np.zeros(num_classes),
            "centre": np.zeros(width),
        }
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}
