"""Features of augmented training images, made once by the frozen image tower.

While the image tower is frozen, an image in a given view has the same features for the
whole of fine-tuning. V views of every training image are embedded before the first
step, kept under `workdir/STAGE/views/`, and looked up by the loader: the tower never
runs again, and the head trains at its own speed.

Differs from VL-LTR: each draw takes one of V fixed views, not a new augmentation, and
there is neither mixup nor CutMix, which mix pictures.
"""

import errno
import time
from collections.abc import Callable, Iterable
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
from vl_ltr_jax.models import encode
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage.artifact import ArtifactError, holds_array, write_array

_STREAM = 2**31  # past every step: keys of erasing are not those of training


class NonFiniteFeatureError(UserError):
    """A tower whose features are not numbers."""


Encode = Callable[[dict[str, Any], np.int32, np.int32, Array], Array]


def batches_of(
    run: Run,
    stage: str,
    options: Finetune | Classifier,
    towers: Callable[[], dict[str, Any]],
) -> Callable[[int], loader.Batches]:
    """From a first step to this process's batches, see :meth:`loader.Feed.features`.

    Views that do not lie in the workdir yet are embedded first, unless the run writes
    nothing. On a local disk they are mapped into memory; from a bucket each process
    reads them whole.

    Args:
      run: whose training images and settings are taken.
      stage: whose directory holds the views.
      options: its section of the configuration.
      towers: gives the frozen variables on the devices; only the image tower runs.

    Raises:
      ArtifactError: if a view that was made cannot be read.
      ImageReadError: naming an image that cannot be read.
    """
    if run.writes:
        make(run, stage, options.feature_views, towers())
    made = run.artifact(stage)
    views = [made.load_array(f"views/view_{v}") for v in range(options.feature_views)]
    feed = run_inputs.feed(run.config, options.global_batch_size)
    return lambda first_step: feed.features(
        views,
        run.inputs.data.train.labels,
        sampling=options.sampling,
        start_step=first_step,
    )


def path_of(run: Run, stage: str, view: int) -> epath.Path:
    """The file with the features of a view, float32 [N, D]."""
    return run.artifact(stage).directory / "views" / f"view_{view}.npy"


def make(run: Run, stage: str, count: int, towers: dict[str, Any]) -> None:
    """Embeds the views that are not in the workdir, each written when it is whole.

    Args:
      run: whose training images and settings are taken.
      stage: whose directory holds the views.
      count: how many views.
      towers: the frozen variables on the devices.

    Raises:
      ArtifactError: if something else lies where a view goes.
      ImageReadError: naming an image that cannot be read.
      NonFiniteFeatureError: if a feature is NaN or infinite.
    """
    if jax.process_index() == 0:
        _check_places(path_of(run, stage, view) for view in range(count))
    shape = (len(run.inputs.data.train), run.inputs.clip_config.embed_dim)
    encode_view = jax.jit(make_encode(run))
    for view in range(count):
        path, name = path_of(run, stage, view), f"view {view + 1} of {count}"
        # One process looks: file systems may show the others an older state.
        if multihost_utils.broadcast_one_to_all(np.asarray(holds_array(path, shape))):
            console.say(f"{name}: made before", stage=stage)
            continue
        start = time.monotonic()
        features = embed_view(run, encode_view, towers, view, f"{stage}: {name}")
        if jax.process_index() == 0:
            write_array(path, features)
        duration = messages.format_duration(time.monotonic() - start)
        told = f"{name}: {len(features):,} images embedded in {duration}"
        console.say(told, stage=stage)
    multihost_utils.sync_global_devices("views are written")


def _check_places(paths: Iterable[epath.Path]) -> None:
    """Finds before hours of embedding what writing would stumble on."""
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a directory")
    except OSError as error:
        raise errors.lack(error) or ArtifactError(
            f"{path} cannot be made ({error.strerror or error}); move away what lies "
            "there"
        ) from error


def make_encode(run: Run) -> Encode:
    """Builds the pure function `(towers, view, first, images) -> features [B, D]`.

    Random erasing depends on the seed, the view and the place in the split alone;
    `first` is that of the first image.
    """

    def encode_view(
        towers: dict[str, Any],
        view: Int[Any, ""],
        first: Int[Any, ""],
        images: UInt8[Array, "B H W 3"],
    ) -> Float[Array, "B D"]:
        key = jax.random.fold_in(jax.random.key(run.config.seed), _STREAM)
        pixels = run.prepare(
            jax.random.fold_in(key, view), images, first + jnp.arange(len(images))
        )
        return encode.image(run.model, towers, pixels)

    return encode_view


def embed_view(
    run: Run,
    encode_view: Encode,
    towers: dict[str, Any],
    view: int,
    what: str = "view",
) -> Float32[np.ndarray, "N D"]:
    """Features of one view of every training image, on every host, not normalised.

    Args:
      run: whose training images and settings are taken.
      encode_view: what :func:`make_encode` built, jitted.
      towers: the frozen variables on the devices.
      view: number of the view, from 0.
      what: begins the line of progress.

    Raises:
      NonFiniteFeatureError: if a feature is NaN or infinite.
    """
    size = (len(run.inputs.data.train), run.inputs.clip_config.embed_dim)
    features, first = np.empty(size, np.float32), 0
    each = run.config.evaluate.batch_size
    transform = run_inputs.train_transform(run.config)
    feed = run_inputs.feed(run.config, each)
    batches = feed.view(run.inputs.data.train, transform, view)
    for batch in console.progress(batches, what, len(features), "images", each=each):
        images = meshes.to_global(run.mesh, {"image": batch["image"]})["image"]
        embedded = meshes.to_host(
            encode_view(towers, np.int32(view), np.int32(first), images)
        )
        rows = features[first : first + len(embedded)]
        rows[:] = embedded[: len(rows)]  # the last batch is padded
        first += len(embedded)
    wrong = ~np.isfinite(features).all(axis=1)
    if wrong.any():
        first_wrong = run.inputs.data.train.describe(int(wrong.argmax()))
        raise NonFiniteFeatureError(
            f"{wrong.sum()} of {len(features)} training images have features that are "
            f"not numbers, the first {first_wrong}: "
            "the training of the tower has diverged. Lower its learning rate, in a new "
            "--workdir"
        )
    return features
