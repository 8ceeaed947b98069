"""The head trained on features that the frozen tower made once."""

import itertools
import re

import jax
import numpy as np
import pytest
from etils import epath

from vl_ltr_jax.checkpoint.restore import load_params
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.data.batches import loader, sampler
from vl_ltr_jax.run import feature_views as views
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import image_world

LABELS = np.repeat(np.arange(3, dtype=np.int32), [7, 3, 1])
# Row i of view v reads [v, i, v]: where a feature comes from can be told from it.
TABLES = [
    np.stack([np.full(11, v), np.arange(11), np.full(11, v)], axis=1).astype(np.float32)
    for v in range(3)
]


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
    mesh = meshes.make_mesh()
    run = Run(config, epath.Path(workdir), run_inputs.read(config), mesh)
    run.artifact("finetune").begin()
    return run


def make_views(run):
    count = run.config.finetune.feature_views
    views.make(run, "finetune", count, run.replicate(run.towers()))
    return [np.load(views.path_of(run, "finetune", v)) for v in range(count)]


def test_the_whole_road(root, tmp_path, capsys):
    """LGR on two views: a finished run, which another number of views does not fit."""
    config = configs.from_config_dict(configure(root, 2))
    workdir, inputs = epath.Path(tmp_path), run_inputs.read(config)
    results = pipeline.run(config, workdir, inputs)
    assert results["test"].keys() == {"lgr", "knn", "zero_shot"}
    assert results["cost"]["images_seen"] == 3 * 4 * 8
    said = capsys.readouterr().err
    for view in range(2):
        assert f"finetune: view {view + 1} of 2: 36 images embedded in " in said
    top1 = results["test"]["lgr"]["top1"]
    for stage, made in (
        ("embed", r"\d+ sentences, \d+ images in \d+s"),
        ("anchors", r"6 of \d+ sentences chosen in \d+s"),
        ("finetune", r"12 steps, 96 images in \d+s, loss \d.*"),
        ("evaluate", rf"test {top1:.1f} overall, .* \(VL-LTR \(LGR\)\), in \d+s"),
    ):
        assert re.search(f"^{stage}: {made}$", said, re.MULTILINE), stage
    other = configs.from_config_dict(configure(root, 3))
    with pytest.raises(ArtifactError, match="finetune.feature_views: 2 then, 3 now"):
        pipeline.check(other, workdir, inputs)


def test_an_unaugmented_view_trains_the_head_of_the_usual_road(root, tmp_path):
    """Breaks if features are of another image (`table[images[here] - 1]` in
    `Feed.features`), are normalised (`unit(embedded)` in
    `feature_views.embed_view`), or if the images drawn or the smoothing of the targets
    differ."""
    heads = []
    for count in (0, 1):
        config = configure(
            root,
            count,
            data__train_recipe="none",
            data__erase_probability=0.0,
            finetune__head="fc",
        )
        run = make_run(config, tmp_path / str(count))
        pipeline.STAGES["finetune"](run)
        directory = run.artifact("finetune").directory
        heads.append(load_params(directory / "checkpoints")["params"])
    assert heads[0].keys() == {"head"}
    for usual, cached in zip(*map(jax.tree.leaves, heads), strict=True):
        scale = np.abs(usual).max()
        np.testing.assert_allclose(cached, usual, rtol=0, atol=1e-5 * scale)


@pytest.fixture(scope="module")
def two_views(root, tmp_path_factory):
    run = make_run(configure(root, 2), tmp_path_factory.mktemp("run"))
    return run, make_views(run)


def test_views_differ_and_can_be_made_again(root, tmp_path, two_views):
    """The same for other threads and batch sizes. Breaks if crops are drawn, or boxes
    erased, by the place in a batch."""
    run, (first, second) = two_views
    assert first.shape == (36, run.inputs.clip_config.embed_dim)
    assert first.dtype == np.float32
    assert (np.abs(first - second).max(axis=1) > 1e-3).all()
    options = {"data__num_threads": 1, "evaluate__batch_size": 16}
    again = make_views(make_run(configure(root, 2, **options), tmp_path))
    for view, other in zip((first, second), again, strict=True):
        np.testing.assert_allclose(other, view, rtol=1e-4, atol=1e-5)


def test_every_view_is_erased_anew(root, tmp_path):
    """Breaks if the key of erasing is that of the seed alone."""
    options = {"data__train_recipe": "none", "data__erase_probability": 1.0}
    first, second = make_views(make_run(configure(root, 2, **options), tmp_path))
    assert (np.abs(first - second).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("damage", ["gone", "cut", "other shape", "header"])
def test_only_what_is_missing_is_made(two_views, monkeypatch, capsys, damage):
    """A run killed at the second view has the first one and goes on from there."""
    run, whole = two_views
    path = views.path_of(run, "finetune", 1)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif damage == "header":
        path.write_bytes(path.read_bytes().replace(b"{'descr'", b"{((((((("))
    else:
        np.save(path, whole[1][1:])
    embedded, batches = [], loader.Feed.view

    def note(feed, split, transform, view):
        embedded.append(view)
        return batches(feed, split, transform, view)

    monkeypatch.setattr(loader.Feed, "view", note)
    for found, want in zip(make_views(run), whole, strict=True):
        np.testing.assert_array_equal(found, want)
    assert embedded == [1]
    said = capsys.readouterr().err
    assert "finetune: view 1 of 2: made before" in said
    assert (f"{path} is made again: " in said) == (damage != "gone")


def test_a_directory_in_place_of_a_view_is_named_before_any_is_made(root, tmp_path):
    run = make_run(configure(root, 2), tmp_path)
    views.path_of(run, "finetune", 1).mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"view_1.npy cannot be made .*move away"):
        make_views(run)
    assert not views.path_of(run, "finetune", 0).exists()


def test_a_tower_that_has_diverged_is_named(root, tmp_path):
    """Breaks when features are written, or used, that are not numbers."""
    run = make_run(configure(root, 1), tmp_path)
    towers = run.towers()
    towers["params"]["visual"]["proj"]["kernel"] *= np.nan
    with pytest.raises(views.NonFiniteFeatureError, match="36 of 36 .*crimson"):
        views.make(run, "finetune", 1, run.replicate(towers))


def draw(*, num_batches=5, **options):
    steps = {k: options.pop(k) for k in ("sampling", "start_step") if k in options}
    feed = loader.Feed(**{"batch_size": 6, "seed": 3} | options)
    batches = feed.features(TABLES, LABELS, **steps)
    return list(itertools.islice(batches, num_batches))


def test_a_batch_holds_features_of_the_images_that_the_loader_draws():
    """Breaks if a view has a part of the images only, or if images are drawn by
    another rule than those of `Feed.train`."""
    draws = sampler.BatchSampler(LABELS, sampling="sqrt", batch_size=6, seed=3)
    batches = draw(num_batches=100)
    for step, batch in enumerate(batches):
        images = draws.draw(step).images
        assert batch["features"].dtype == np.float32
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["features"][:, 1], images)
        np.testing.assert_array_equal(batch["label"], LABELS[images])
        np.testing.assert_array_equal(batch["features"][:, 0], batch["features"][:, 2])
    drawn = np.concatenate([batch["features"] for batch in batches]).astype(int)
    pairs = np.zeros((3, 11), int)
    np.add.at(pairs, (drawn[:, 0], drawn[:, 1]), 1)
    assert (pairs > 0).all()
    assert pairs.sum(axis=1) == pytest.approx(200, abs=50)


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key, values in batch.items():
            np.testing.assert_array_equal(values, other[key], key)


def test_resuming_at_a_step_yields_its_batches():
    assert_same(draw(num_batches=2, start_step=3), draw()[3:])
    assert len(draw(num_batches=1, start_step=10**12)) == 1
    assert draw(seed=4)[0]["features"].tobytes() != draw()[0]["features"].tobytes()


@pytest.mark.parametrize("process_count", [2, 3])
def test_processes_share_one_global_batch(process_count):
    shares = [
        draw(process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    joined = [
        {key: np.concatenate([share[key] for share in parts]) for key in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(joined, draw())


def test_processes_that_do_not_share_a_batch_are_refused():
    with pytest.raises(ValueError, match="6 is not a multiple of the 4 processes"):
        draw(process_count=4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"finetune__train_image_tower": True},
            ["feature_views=2", "set finetune.train_image_tower=False"],
        ),
        ({"finetune__mixup_alpha": 0.8}, ["mixup_alpha=0.8", "set both to 0"]),
        ({"finetune__cutmix_alpha": 1.0}, ["cutmix_alpha=1.0", "set both to 0"]),
        ({"finetune__feature_views": -1}, ["feature_views: -1", "at least 0"]),
    ],
)
def test_contradictions_are_refused(root, changes, words):
    with pytest.raises(configs.ConfigError) as raised:
        configs.from_config_dict(configure(root, 2, **changes))
    for word in words:
        assert word in str(raised.value)


def test_nothing_is_refused_where_no_head_is_trained(root):
    options = {"finetune__epochs": 0, "finetune__warmup_epochs": 0}
    changes = {"finetune__train_image_tower": True, **options}
    configs.from_config_dict(configure(root, 2, **changes))
