"""Heads that are linear in the image embedding: FC, cosine, and scaled FC."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from vl_ltr_jax.losses import unit


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
