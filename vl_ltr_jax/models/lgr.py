"""The language-guided recognition head (LGR).

For image embedding e and the M anchor embeddings V of each class:

    q = Wq LN(e),  K = Wk LN(V),  a = softmax_M(q K^T / sqrt(D)),  G = a V,
    visual logits = MLP(e),  language logits = s cos(e, G).

Neither G nor K is built. With the Gram matrix V V^T of each class, <e, G> = a.(V e) and
|G|^2 = a^T (V V^T) a. With x the normalised, not yet scaled embedding of the key's
LayerNorm (scale g, bias b), q.Wk(g x + b) = (g Wk^T q).x + a term equal for all
sentences of the softmax. Both are exact up to rounding: the first costs M/D of building
G, the second projects B queries in place of C M sentences.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from vl_ltr_jax.losses import unit

LAYER_NORM_EPSILON = 1e-5
# torch.nn.Linear's default range, the initialisation of the authors' MLP.
_uniform_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class AnchorConstants(NamedTuple):
    """What the head needs of frozen anchors besides the anchors; float32.

    Attributes:
      normalized: anchors with mean 0 and variance 1 over D, [C, M, D].
      gram: V V^T of each class, [C, M, M].
    """

    normalized: Float[Array, "C M D"]
    gram: Float[Array, "C M M"]


def anchor_constants(anchors: Float[Array, "C M D"]) -> AnchorConstants:
    """Computes once what would otherwise be computed in every step."""
    anchors = anchors.astype(jnp.float32)
    centered = anchors - jnp.mean(anchors, axis=-1, keepdims=True)
    variance = jnp.mean(centered**2, axis=-1, keepdims=True)
    return AnchorConstants(
        centered * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON),
        jnp.einsum("cmd,cnd->cmn", anchors, anchors),
    )


def _identity(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    del key
    return jnp.eye(*shape, dtype=dtype)


class VisualClassifier(nn.Module):
    """The visual branch: D -> 4D -> ReLU -> C."""

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image_features: Float[Array, "B D"]) -> Float[Array, "B C"]:
        """Returns one logit per class, in the compute dtype."""
        hidden = nn.Dense(
            4 * image_features.shape[-1],
            kernel_init=_uniform_init,
            dtype=self.dtype,
            name="fc1",
        )(image_features)
        return nn.Dense(
            self.num_classes, kernel_init=_uniform_init, dtype=self.dtype, name="fc2"
        )(nn.relu(hidden))


class LanguageGuidedHead(nn.Module):
    """Visual and language logits of image embeddings.

    Differs from VL-LTR: the language logit of a class without sentences is 0, where the
    authors get NaN; and the key's LayerNorm has a scale only, since the softmax cancels
    its bias (whose gradient is 0).

    Attributes:
      num_classes: C.
      embed_dim: D.
      language_logit_scale: logarithm of s, not trained.
      detach_norm: treat the length of G as a constant in the gradient, as the authors
        do when the image tower trains.
      dtype: compute dtype of the large products; parameters, attention and logits are
        float32.
      padded_classes: classes of the anchors where some, past C and without a sentence,
        fill up the shards of a mesh; they get no logit.
    """

    num_classes: int
    embed_dim: int
    language_logit_scale: float
    detach_norm: bool = False
    dtype: DTypeLike = jnp.float32
    padded_classes: int | None = None

    @nn.compact
    def __call__(
        self,
        image_features: Float[Array, "B D"],
        anchors: Float[Array, "C M D"],
        padding: Bool[Array, "C M"],
        constants: AnchorConstants | None = None,
    ) -> tuple[
        Float[Array, "B {self.num_classes}"], Float[Array, "B {self.num_classes}"]
    ]:
        """Scores images against every class.

        Args:
          image_features: image embeddings, not normalised.
          anchors: embeddings of the anchor sentences, not normalised.
          padding: True where a class has no such anchor; its embedding has no effect.
          constants: :func:`anchor_constants` of the anchors, for anchors that do not
            train; computed here if None.

        Returns:
          Visual and language logits, float32.

        Raises:
          ValueError: if the arrays do not have C classes and width D.
        """
        given = (anchors.shape[0], anchors.shape[-1], image_features.shape[-1])
        num_anchored = self.padded_classes or self.num_classes
        if given != (num_anchored, self.embed_dim, self.embed_dim):
            raise ValueError(
                f"image features {image_features.shape} and anchors {anchors.shape} do "
                f"not fit num_classes={num_anchored}, embed_dim={self.embed_dim}"
            )
        visual_logits = VisualClassifier(
            self.num_classes, self.dtype, name="visual_fc"
        )(image_features)
        if constants is None:
            constants = anchor_constants(anchors)

        query = self._folded_query(image_features).astype(self.dtype)
        scores = self._compare(query, constants.normalized) / self.embed_dim**0.5
        blocked = padding[None]
        scores = jnp.where(blocked, jnp.finfo(jnp.float32).min, scores)
        attention = jnp.where(blocked, 0.0, jax.nn.softmax(scores))

        projections = self._compare(unit(image_features), anchors)
        product = jnp.sum(attention * projections, axis=-1)
        squared = jnp.einsum("bcm,cmn->bcn", attention, constants.gram)
        squared = jnp.sum(squared * attention, axis=-1)
        # The floor keeps classes without sentences (0 / 0) finite, gradient included.
        norm = jnp.sqrt(jnp.maximum(squared, 1e-12))
        if self.detach_norm:
            norm = jax.lax.stop_gradient(norm)
        language_logits = jnp.exp(self.language_logit_scale) * product / norm
        language_logits = language_logits[:, : self.num_classes]
        return visual_logits.astype(jnp.float32), language_logits

    def _folded_query(self, image_features: Array) -> Array:
        """Query g Wk^T Wq LN(e), moved behind the projection of the keys."""
        square = (self.embed_dim, self.embed_dim)
        normalize = nn.LayerNorm(
            epsilon=LAYER_NORM_EPSILON,
            dtype=jnp.float32,
            use_fast_variance=False,
            name="norm1q",
        )
        wq = self.param("wq", _identity, square, jnp.float32)
        wk = self.param("wk", _identity, square, jnp.float32)
        scale = self.param("norm1k", nn.initializers.ones, self.embed_dim, jnp.float32)
        query = normalize(image_features) @ wq
        return (query @ wk.T) * scale[None, :]

    def _compare(self, queries: Array, table: Array) -> Array:
        """Inner products [B C M] of queries [B D] and a table [C M D], in float32."""
        return jnp.einsum(
            "bd,cmd->bcm",
            queries.astype(self.dtype),
            table.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
