"""Embeddings of a training batch, for the steps and for the probe of single rows."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip
from vl_ltr_jax.models.text import PackedTokens
from vl_ltr_jax.train import chunks
from vl_ltr_jax.train.state import Batch

# From a key, images, and their places in the global batch to pixels.
Prepare = Callable[
    [Key[Array, ""], UInt8[Array, "b H W 3"], Int[Array, " b"]],
    Float[Array, "b H W 3"],
]


def text_of(batch: Batch) -> Array | PackedTokens:
    """Returns the sentences of a batch, packed if the batch has segments."""
    if "segments" not in batch:
        return batch["tokens"]
    return PackedTokens(*(batch[name] for name in PackedTokens._fields))


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Towers and settings that embed the batches of a stage, in chunks.

    Attributes:
      model: both towers, in training.
      prepare: normalises and erases uint8 images on the device.
      seed: root of the random numbers, which depend on (seed, step) alone.
      mesh: devices; batches are split over all of them.
      accumulation_steps: chunks of the global batch, which each divide over the mesh.
      teacher_model: frozen CLIP, `model` by default; only its image tower runs.
    """

    model: Clip
    prepare: Prepare
    seed: int
    mesh: jax.sharding.Mesh
    accumulation_steps: int = 1
    teacher_model: Clip | None = None

    def key(self, step: Int[Array, ""]) -> Key[Array, ""]:
        """Returns the key of a step."""
        return jax.random.fold_in(jax.random.key(self.seed), step)

    def pairs(
        self,
        params: Any,
        batch_stats: Any,
        batch: Batch,
        key: Key[Array, ""],
        *,
        train_batch_norm: bool = False,
    ) -> tuple[Any, tuple[Float[Array, "B D"], Float[Array, "B D"]]]:
        """Returns running statistics, and features of images and sentences.

        Args:
          params: of both towers.
          batch_stats: running statistics; empty for towers without BatchNorm.
          batch: see :func:`pretrain.make_step`.
          key: of the step.
          train_batch_norm: normalises by the statistics of each chunk, in turn.
        """

        def embed(
            shared: tuple[Any, Any, Array], chunk: Batch, train: bool
        ) -> tuple[Any, tuple[Array, Array]]:
            params, batch_stats, key = shared
            variables = {"params": params}
            if batch_stats:
                variables["batch_stats"] = batch_stats
            features, updated = self.model.apply(
                variables,
                self.prepare(key, chunk["image"], chunk["row"]),
                text_of(chunk),
                train=train,
                mutable=["batch_stats"] if train else [],
            )
            return updated.get("batch_stats", batch_stats), features

        batch = _with_rows(batch)
        if train_batch_norm and batch_stats:
            return chunks.embed_in_turn(
                lambda stats, chunk: embed((params, stats, key), chunk, True),
                batch_stats,
                batch,
                self.accumulation_steps,
                self.mesh,
            )
        features = chunks.embed(
            lambda shared, chunk: embed(shared, chunk, False)[1],
            (params, batch_stats, key),
            batch,
            self.accumulation_steps,
            self.mesh,
        )
        return batch_stats, features

    def teacher_images(
        self, towers: dict[str, Any], batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "B D"]:
        """Embeds the images of a batch with the frozen CLIP."""
        model = self.teacher_model or self.model

        def embed(shared: tuple[Any, Array], chunk: Batch) -> Array:
            towers, key = shared
            pixels = self.prepare(key, chunk["image"], chunk["row"])
            return encode.image(model, towers, pixels)

        features = chunks.embed(
            embed, (towers, key), _with_rows(batch), self.accumulation_steps, self.mesh
        )
        return cast(Array, features)

    def pixels(self, key: Key[Array, ""], batch: Batch) -> Float[Array, "B *rest"]:
        """Returns prepared images, or the cached features that a batch has instead."""
        if "features" in batch:
            return batch["features"]
        rows = jnp.arange(len(batch["label"]))
        return self.prepare(key, batch["image"], rows)

    def image_features(
        self,
        params: dict[str, Any],
        towers: dict[str, Any] | None,
        pixels: Float[Array, "B *rest"],
    ) -> Float[Array, "B D"]:
        """Embeds prepared images [B, H, W, 3]; returns features [B, D] as they are.

        Args:
          params: in training; a `visual` tower among them replaces that of `towers`.
          towers: frozen variables; None for features.
          pixels: from :meth:`pixels`.
        """
        if towers is None or pixels.ndim == 2:
            return pixels
        if "visual" in params:
            merged = {**towers["params"], "visual": params["visual"]}
            towers = {**towers, "params": merged}
        features = chunks.embed(
            functools.partial(encode.image, self.model),
            towers,
            pixels,
            self.accumulation_steps,
            self.mesh,
        )
        return cast(Array, features)


def _with_rows(batch: Batch) -> Batch:
    """Adds each example's place in the global batch, which erasing depends on."""
    return {**batch, "row": jnp.arange(len(batch["label"]))}
