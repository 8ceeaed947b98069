"""The language-guided recognition head (LGR).

For image embedding e and the M anchor embeddings V of each class:

    q = Wq LN(e),  K = Wk LN(V),  a = softmax_M(q K^T / sqrt(D)),  G = a V,
    visual logits = MLP(e),  language logits = s cos(e, G).

Neither G nor K is built. With the Gram matrix V V^T of each class, <e, G> = a.(V e) and
|G|^2 = a^T (V V^T) a. The key's LayerNorm (scale g, bias b) makes r (V - mean(V)) of V,
and with p = g Wk^T q

    q.Wk(g r (V - mean(V)) + b) = r (p - mean(p)).V + a term equal for all sentences,

which the softmax drops. Both are exact up to rounding. The first costs M/D of building
G, the second projects B queries instead of C M sentences. V is the only [C, M, D].
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from vl_ltr_jax.method.losses import unit

LAYER_NORM_EPSILON = 1e-5
# A step holds about five arrays of this many float32 numbers: 640 MiB.
MAX_SCORES = 2**25
# torch.nn.Linear's default range, the initialisation of the authors' MLP.
_uniform_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class AnchorConstants(NamedTuple):
    """Constants of frozen anchors, so that no step computes them; float32.

    Attributes:
      inverse_std: r, one over the standard deviation of each anchor over D, [C, M].
      gram: V V^T of each class, [C, M, M].
    """

    inverse_std: Float[Array, "C M"]
    gram: Float[Array, "C M M"]


def anchor_constants(anchors: Float[Array, "C M D"]) -> AnchorConstants:
    """Returns the constants of anchors."""
    anchors = anchors.astype(jnp.float32)
    variance = jnp.var(anchors, axis=-1)
    return AnchorConstants(
        jax.lax.rsqrt(variance + LAYER_NORM_EPSILON),
        jnp.einsum("cmd,cnd->cmn", anchors, anchors),
    )


def head_shapes(num_classes: int, embed_dim: int) -> dict[str, Any]:
    """Returns the parameters of a :class:`LanguageGuidedHead` as shapes and dtypes."""
    head = LanguageGuidedHead(num_classes, embed_dim, language_logit_scale=0.0)
    # Shapes only: a real key would start the devices.
    variables = jax.eval_shape(
        head.init,
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((1, embed_dim), jnp.float32),
        jax.ShapeDtypeStruct((num_classes, 1, embed_dim), jnp.float32),
        jax.ShapeDtypeStruct((num_classes, 1), jnp.bool_),
    )
    return dict(variables["params"])


def attention(
    params: Mapping[str, Any],
    image_features: Float[Array, "B D"],
    anchors: Float[Array, "B M D"],
    padding: Bool[Array, "B M"],
) -> Float[Array, "B M"]:
    """Reference form, for explanations: the attention of images to one class each.

    Args:
      params: parameters of a :class:`LanguageGuidedHead`.
      image_features: image embeddings, not normalised.
      anchors: anchors of the class that each image is compared with.
      padding: True where that class has no such anchor; its attention is 0.
    """

    def normalized(array: Array) -> Array:
        centred = array - jnp.mean(array, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)

    norm = params["norm1q"]
    queries = normalized(image_features) * norm["scale"][None, :] + norm["bias"][None]
    keys = normalized(anchors) * params["norm1k"][None, None, :] @ params["wk"]
    scores = jnp.einsum("bd,bmd->bm", queries @ params["wq"], keys)
    scores = scores / image_features.shape[-1] ** 0.5
    blocked = jnp.where(padding, jnp.finfo(jnp.float32).min, scores)
    return jnp.where(padding, 0.0, jax.nn.softmax(blocked))


@dataclasses.dataclass(frozen=True)
class ClassLayout:
    """Division of the classes of a head over devices and over time.

    Attributes:
      padded: number of classes in the anchors. Those past C have no sentence and get no
        logit; they fill up shards and blocks.
      shards: devices that the classes are split over.
      blocks: parts of each shard, visited in turn and again in the backward pass.
        Attention exists for one part at a time.
    """

    padded: int
    shards: int = 1
    blocks: int = 1

    @classmethod
    def fit(
        cls,
        num_classes: int,
        num_anchors: int,
        batch_size: int,
        mesh_shape: Mapping[str, int],
    ) -> "ClassLayout":
        """Returns the layout that keeps [B, C, M] of a device within `MAX_SCORES`."""
        scores = batch_size * num_classes * num_anchors
        allowed = MAX_SCORES * math.prod(mesh_shape.values())
        shards, blocks = mesh_shape["model"], min(-(-scores // allowed), num_classes)
        parts = shards * blocks
        return cls(-(-num_classes // parts) * parts, shards, blocks)


@jax.custom_vjp
def _quadratic(
    attention: Float[Array, "B C M"], gram: Float[Array, "C M M"]
) -> Float[Array, "B C"]:
    """Returns a^T (V V^T) a; the backward pass reuses V V^T a."""
    return _quadratic_forward(attention, gram)[0]


def _quadratic_forward(
    attention: Array, gram: Array
) -> tuple[Array, tuple[Array, Array]]:
    product = jnp.einsum("bcm,cmn->bcn", attention, gram)
    return jnp.sum(product * attention, axis=-1), (attention, product)


def _quadratic_backward(
    saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    attention, product = saved
    weighted = gradient[..., None] * attention
    # Frozen anchors never ask for the second, and the compiler drops it.
    return 2 * gradient[..., None] * product, jnp.einsum(
        "bcm,bcn->cmn", weighted, attention
    )


_quadratic.defvjp(_quadratic_forward, _quadratic_backward)


def _identity(key: Array, shape: tuple[int, int], dtype: DTypeLike) -> Array:
    del key
    return jnp.eye(*shape, dtype=dtype)


class VisualClassifier(nn.Module):
    """Visual branch: D -> 4D -> ReLU -> C."""

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
      detach_norm: True if the length of G is a constant in the gradient, as in the
        authors' code when the image tower trains.
      dtype: compute dtype of the large products; parameters, attention and logits are
        float32.
      layout: division of the classes; by default one shard and one block.
    """

    num_classes: int
    embed_dim: int
    language_logit_scale: float
    detach_norm: bool = False
    dtype: DTypeLike = jnp.float32
    layout: ClassLayout | None = None

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
          ValueError: the arrays do not have C classes and width D.
        """
        layout = self.layout or ClassLayout(self.num_classes)
        sizes = (anchors.shape[0], anchors.shape[-1], image_features.shape[-1])
        if sizes != (layout.padded, self.embed_dim, self.embed_dim):
            raise ValueError(
                f"image features {image_features.shape} and anchors {anchors.shape} do "
                f"not fit num_classes={layout.padded}, embed_dim={self.embed_dim}"
            )
        visual_logits = VisualClassifier(
            self.num_classes, self.dtype, name="visual_fc"
        )(image_features)
        if constants is None:
            constants = anchor_constants(anchors)

        cosines = self._by_blocks(
            layout,
            self._folded_query(image_features),
            unit(image_features),
            (anchors, padding, constants),
        )
        language_logits = jnp.exp(self.language_logit_scale) * cosines
        language_logits = language_logits[:, : self.num_classes]
        return visual_logits.astype(jnp.float32), language_logits

    def _by_blocks(
        self,
        layout: ClassLayout,
        query: Float[Array, "B D"],
        direction: Float[Array, "B D"],
        tables: tuple[Array, Array, AnchorConstants],
    ) -> Float[Array, "B C"]:
        """Returns :meth:`_cosines`, computed block by block of each shard."""
        shards, blocks = layout.shards, layout.blocks
        if blocks == 1:
            return self._cosines(query, direction, *tables)
        tables = jax.tree.map(
            lambda table: table.reshape(shards, blocks, -1, *table.shape[1:]), tables
        )

        @jax.checkpoint
        def visit(query: Array, direction: Array, index: Array) -> Array:
            def block(table: Array) -> Array:
                part = jax.lax.dynamic_index_in_dim(table, index, 1, keepdims=False)
                return part.reshape(-1, *table.shape[3:])

            return self._cosines(query, direction, *jax.tree.map(block, tables))

        parts = jax.lax.map(
            lambda index: visit(query, direction, index), jnp.arange(blocks)
        )
        parts = parts.reshape(blocks, query.shape[0], shards, -1)
        return parts.transpose(1, 2, 0, 3).reshape(query.shape[0], -1)

    def _cosines(
        self,
        query: Float[Array, "B D"],
        direction: Float[Array, "B D"],
        anchors: Float[Array, "C M D"],
        padding: Bool[Array, "C M"],
        constants: AnchorConstants,
    ) -> Float[Array, "B C"]:
        """Returns cosines of images and the G they attend to; 0 without sentences."""
        # The root of D scales B D numbers here, not B C M.
        query = query / self.embed_dim**0.5
        scores = self._compare(query, anchors) * constants.inverse_std[None]
        blocked = padding[None]
        scores = jnp.where(blocked, jnp.finfo(jnp.float32).min, scores)
        attention = jnp.where(blocked, 0.0, jax.nn.softmax(scores))
        product = jnp.sum(attention * self._compare(direction, anchors), axis=-1)
        squared = _quadratic(attention, constants.gram)
        # The floor keeps classes without sentences (0 / 0) finite, gradient included.
        norm = jnp.sqrt(jnp.maximum(squared, 1e-12))
        if self.detach_norm:
            norm = jax.lax.stop_gradient(norm)
        return product / norm

    def _folded_query(self, image_features: Array) -> Array:
        """Returns the query g Wk^T Wq LN(e) without its mean."""
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
        query = (query @ wk.T) * scale[None, :]
        return query - jnp.mean(query, axis=-1, keepdims=True)

    def _compare(self, queries: Array, table: Array) -> Array:
        """Returns inner products [B C M] of queries [B D] and a table [C M D]."""
        # As one product of two matrices, which XLA's CPU backend runs twice as fast.
        rows = table.astype(self.dtype).reshape(-1, table.shape[-1])
        products = jnp.matmul(
            queries.astype(self.dtype), rows.T, preferred_element_type=jnp.float32
        )
        return products.reshape(queries.shape[0], *table.shape[:2])
