"""Features of augmented training images, embedded once by the frozen image tower.

While the image tower is frozen, an image in a given view has the same features in all
of fine-tuning. V views of every training image are embedded before the first step, and
kept under `workdir/STAGE/views/`. Batches look them up, so the tower runs no more.

Differs from VL-LTR: each draw takes one of V fixed views, not a new augmentation, and
there is neither mixup nor CutMix, which mix pictures.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Float32, Int, UInt8

from vl_ltr_jax.config.settings import Classifier, Finetune
from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.logs import console, messages
from vl_ltr_jax.models import encode as encoding
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage.artifact import ArtifactError, holds_array, write_array

_STREAM = 2**31  # above every step, so that erasing and training use other keys


class NonFiniteFeatureError(UserError):
    """A tower whose features are not numbers."""


# From a view, the index of its first image and images to features.
Encode = Callable[[np.int32, np.int32, Array], Array]


def batches_of(
    run: Run,
    stage: str,
    section: Finetune | Classifier,
    towers: Callable[[], dict[str, Any]],
) -> Callable[[int], loader.Batches]:
    """Returns a function from a first step to batches of features.

    Missing views are embedded first, unless the run writes nothing. On a local disk
    they are mapped into memory; from a bucket each process reads all of them.

    Raises:
      UserError: a view or an image cannot be read.
    """
    if run.writes:
        make(run, stage, section.feature_views, towers())
    artifact = run.artifact(stage)
    views = [
        artifact.load_array(f"views/view_{view}")
        for view in range(section.feature_views)
    ]
    feed = run_inputs.feed(run.config, section.global_batch_size)
    return lambda first_step: feed.features(
        views,
        run.inputs.data.train.labels,
        sampling=section.sampling,
        start_step=first_step,
    )


def path_of(run: Run, stage: str, view: int) -> epath.Path:
    """Returns the file with the features of a view, float32 [N, D]."""
    return run.artifact(stage).directory / "views" / f"view_{view}.npy"


def make(run: Run, stage: str, count: int, towers: dict[str, Any]) -> None:
    """Embeds missing views of a stage, and writes each when it is complete.

    Raises:
      ArtifactError: a directory has the name of a view.
      ImageReadError: an image cannot be read.
      NonFiniteFeatureError: a feature is NaN or infinite.
    """
    for view in range(count):  # writing would fail after hours of embedding
        if (path := path_of(run, stage, view)).is_dir():
            raise ArtifactError(f"{path}: a directory. Move it elsewhere.")
    shape = (len(run.inputs.data.train), run.inputs.clip_config.embed_dim)
    encode_view = functools.partial(jax.jit(functools.partial(encode, run)), towers)
    for view in range(count):
        path, name = path_of(run, stage, view), f"view {view + 1} of {count}"
        # One process looks: file systems may show the others an older state.
        if multihost_utils.broadcast_one_to_all(np.asarray(holds_array(path, shape))):
            console.say(f"{name}: embedded before", stage=stage)
            continue
        start = time.monotonic()
        features = _embed_view(run, encode_view, view, f"{stage}: {name}")
        if jax.process_index() == 0:
            write_array(path, features)
        duration = messages.format_duration(time.monotonic() - start)
        message = f"{name}: {len(features):,} images embedded in {duration}"
        console.say(message, stage=stage)
    multihost_utils.sync_global_devices("views are written")


def encode(
    run: Run,
    towers: dict[str, Any],
    view: Int[Any, ""],
    first: Int[Any, ""],
    images: UInt8[Array, "b H W 3"],
) -> Float[Array, "b D"]:
    """Embeds a batch of a view; `first` is the index of its first image.

    Random erasing depends on the seed, the view and the index in the split alone.
    """
    key = jax.random.fold_in(jax.random.key(run.config.seed), _STREAM)
    key = jax.random.fold_in(key, view)
    pixels = run.prepare(key, images, first + jnp.arange(len(images)))
    return encoding.image(run.model, towers, pixels)


def _embed_view(
    run: Run, encode_view: Encode, view: int, what: str
) -> Float32[np.ndarray, "N D"]:
    """Embeds one view of every training image, on every host."""
    size = (len(run.inputs.data.train), run.inputs.clip_config.embed_dim)
    features, first = np.empty(size, np.float32), 0
    each = run.config.evaluate.batch_size
    transform = run_inputs.train_transform(run.config)
    feed = run_inputs.feed(run.config, each)
    batches = feed.view(run.inputs.data.train, transform, view)
    for batch in console.progress(batches, what, len(features), "images", each=each):
        images = meshes.to_global(run.mesh, {"image": batch["image"]})["image"]
        embedded = meshes.to_host(encode_view(np.int32(view), np.int32(first), images))
        rows = features[first : first + len(embedded)]
        rows[:] = embedded[: len(rows)]  # the last batch is padded
        first += len(embedded)
    wrong = ~np.isfinite(features).all(axis=1)
    if wrong.any():
        image = run.inputs.data.train.describe(int(wrong.argmax()))
        raise NonFiniteFeatureError(
            f"{image}: its features, and those of {wrong.sum()} of {len(features)} "
            "training images, are not numbers; the tower's training has diverged. "
            "Lower its learning rate, in a new --workdir."
        )
    return features
