"""The head trained on features that the frozen tower made once."""

import jax
import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.batches import loader
from vl_ltr_jax.run import feature_views as views
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import image_world


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("data") / "world")


def configure(root, feature_views, **changes):
    config = image_world.configure(root)
    config.pretrain.epochs = 0
    config.finetune.feature_views = feature_views
    return image_world.change(config, **changes)


def make_run(config, workdir):
    config = configs.from_config_dict(config)
    run = Run(config, epath.Path(workdir), run_inputs.read(config))
    run.artifact("finetune").begin()
    return run


def make_views(run):
    count = run.config.finetune.feature_views
    views.make(run, "finetune", count, run.replicate(run.towers()))
    return [np.load(views.path_of(run, "finetune", v)) for v in range(count)]


def test_a_run_trains_the_head_on_views(root, tmp_path, capsys):
    """LGR on two views: another number of views does not fit the finished run."""
    config = configs.from_config_dict(configure(root, 2))
    workdir, inputs = epath.Path(tmp_path), run_inputs.read(config)
    results = pipeline.run(Run(config, workdir, inputs))
    assert results["test"].keys() == {"lgr", "knn", "zero_shot"}
    assert results["cost"]["images_seen"] == 3 * 4 * 8
    text = capsys.readouterr().err
    assert all(f"finetune: view {view} of 2: 36 images" in text for view in (1, 2))
    changed = configs.from_config_dict(configure(root, 3))
    with pytest.raises(ArtifactError, match="finetune.feature_views"):
        pipeline.check(changed, workdir, inputs)


def test_an_unaugmented_view_trains_the_same_head_as_images(root, tmp_path):
    """Breaks if features are of another image (`table[images[here] - 1]` in
    `Feed.features`). Breaks if they are normalised (`unit(embedded)` in `_embed_view`),
    or if the drawn images or smoothed targets differ."""
    heads = []
    for count in (0, 1):
        changes = {"data__train_recipe": "none", "data__erase_probability": 0.0}
        config = configure(root, count, finetune__head="fc", **changes)
        run = make_run(config, tmp_path / str(count))
        pipeline.STAGES["finetune"](run)
        directory = run.artifact("finetune").directory
        heads.append(load_params(directory / "checkpoints")["params"])
    assert heads[0].keys() == {"head"}
    for images, cached in zip(*map(jax.tree.leaves, heads), strict=True):
        scale = np.abs(images).max()
        np.testing.assert_allclose(cached, images, rtol=0, atol=1e-5 * scale)


@pytest.fixture(scope="module")
def two_views(root, tmp_path_factory):
    run = make_run(configure(root, 2), tmp_path_factory.mktemp("run"))
    return run, make_views(run)


def test_views_differ_and_are_reproducible(root, tmp_path, two_views):
    """Breaks if crops, or erased boxes, depend on threads or the place in a batch."""
    run, (first, second) = two_views
    assert first.shape == (36, run.inputs.clip_config.embed_dim)
    assert first.dtype == np.float32
    assert (np.abs(first - second).max(axis=1) > 1e-3).all()
    options = {"data__num_threads": 1, "evaluate__batch_size": 16}
    again = make_views(make_run(configure(root, 2, **options), tmp_path))
    for view, other in zip((first, second), again, strict=True):
        np.testing.assert_allclose(other, view, rtol=1e-4, atol=1e-5)


def test_each_view_is_erased_differently(root, tmp_path):
    """Breaks if the key of erasing is that of the seed alone."""
    options = {"data__train_recipe": "none", "data__erase_probability": 1.0}
    first, second = make_views(make_run(configure(root, 2, **options), tmp_path))
    assert (np.abs(first - second).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("damage", ["absent", "cut"])
def test_only_missing_views_are_embedded(two_views, monkeypatch, capsys, damage):
    """A run killed at the second view has the first, and goes on from there."""
    run, views_before = two_views
    path = views.path_of(run, "finetune", 1)
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    embedded, make_batches = [], loader.Feed.view

    def note(feed, split, transform, view):
        embedded.append(view)
        return make_batches(feed, split, transform, view)

    monkeypatch.setattr(loader.Feed, "view", note)
    for view, before in zip(make_views(run), views_before, strict=True):
        np.testing.assert_array_equal(view, before)
    assert embedded == [1]
    text = capsys.readouterr().err
    assert "finetune: view 1 of 2: embedded before" in text
    assert (str(path) in text) == (damage == "cut")


def test_features_that_are_not_numbers_are_refused(root, tmp_path):
    """The tower has diverged."""
    run = make_run(configure(root, 1), tmp_path)
    towers = run.towers()
    towers["params"]["visual"]["proj"]["kernel"] *= np.nan
    with pytest.raises(views.NonFiniteFeatureError, match="crimson"):
        views.make(run, "finetune", 1, run.replicate(towers))
