"""The comparison: sharing, resuming, tables, CSV and figure, and what diverges."""

import csv
import io
import json
import shutil
import statistics
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from etils import epath

from vl_ltr_jax import systems
from vl_ltr_jax.comparison import tables
from vl_ltr_jax.comparison.runs import Comparison, methods_of
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.report import class_curves
from vl_ltr_jax.report import tables as report
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import image_world

METHODS = ["zero_shot_prompt", "zero_shot_ensemble", "vl_ltr", "cutoff", "knn", "fc"]


def configure(root, **changes):
    config = image_world.configure(root)
    config.pretrain.epochs = config.pretrain.warmup_epochs = 0
    config.data.train_recipe, config.data.erase_probability = "none", 0.0
    config.finetune.feature_views = 1
    return configs.from_config_dict(image_world.change(config, **changes))


def compared(root, workdir, methods, num_seeds, **changes):
    found = Comparison(configure(root, **changes), epath.Path(workdir))
    found.check(methods, num_seeds)
    return found.run(methods, num_seeds)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """Two seeds of six methods; which stages ran in which method is counted."""
    workdir = epath.Path(tmp_path_factory.mktemp("compare"))
    ran = []

    def counted(name, stage):
        def run(this):
            ran.append((name, this.workdir.parent.name, this.config.seed))
            return stage(this)

        return run

    usual = dict(pipeline.STAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline, "STAGES", {name: counted(name, usual[name]) for name in usual}
        )
        text = compared(root, workdir, METHODS, 2)
    return workdir, text, ran


def test_a_stage_that_methods_have_in_common_runs_once(finished):
    """Breaks if what is shared is made again, or what differs is shared."""
    _, _, ran = finished
    for seed in (0, 1):
        mine = [(stage, method) for stage, method, of in ran if of == seed]
        assert mine == [
            ("embed", "zero_shot_prompt"),
            ("evaluate", "zero_shot_prompt"),
            ("evaluate", "zero_shot_ensemble"),
            ("anchors", "vl_ltr"),
            ("finetune", "vl_ltr"),
            ("evaluate", "vl_ltr"),
            ("anchors", "cutoff"),
            ("finetune", "cutoff"),
            ("evaluate", "cutoff"),
            ("evaluate", "knn"),
            ("finetune", "fc"),
            ("evaluate", "fc"),
        ]


def test_what_is_finished_is_not_run_again(root, finished, monkeypatch):
    workdir, text, _ = finished

    def fail(this):
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(pipeline.STAGES, fail))
    assert compared(root, workdir, METHODS, 2) == text


def results_of(workdir, method, seed):
    path = workdir / method / f"seed_{seed}" / "results.json"
    return json.loads(path.read_text())


def test_the_csv_holds_every_run_under_both_rules(finished):
    workdir, _, _ = finished
    rows = list(csv.DictReader(io.StringIO((workdir / "compare.csv").read_text())))
    assert len(rows) == len(METHODS) * 2 * 2
    for row in rows:
        results = results_of(workdir, row["method"], row["seed"])
        test = results["test"][systems.METHODS[row["method"]].result]
        assert float(row["overall"]) == test["top1"]
        assert float(row["class_mean"]) == test["class_mean"]
        groups = test["shots"][row["rule"]]
        for name in ("many", "medium", "few"):
            found = float(row[name]) if row[name] else None
            assert found == groups[name]
        assert int(row["images_seen"]) == results["cost"]["images_seen"]
        # 36 images in batches of 8 are 4 steps an epoch, 3 epochs.
        trained = row["method"] not in ("zero_shot_prompt", "zero_shot_ensemble")
        assert int(row["images_seen"]) == (3 * 4 * 8 if trained else 0)
        costs = results["cost"]["stages"]
        seconds = sum(costs[s]["seconds"] for s in costs if s != "evaluate")
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.06)


def test_the_table_has_mean_and_spread_over_seeds(finished):
    workdir, text, _ = finished
    assert text == (workdir / "compare.md").read_text()
    assert text.count("| Method | Backbone | Overall | Many | Medium | Few |") == 2
    for title in report.RULE_NAMES.values():
        assert title in text
    both = [results_of(workdir, "knn", s)["test"]["knn"]["top1"] for s in (0, 1)]
    cell = f"{statistics.fmean(both):.1f} ± {statistics.stdev(both):.1f}"
    assert f"| kNN head | ViT-tiny | {cell} | - |" in text


def test_the_figure_has_a_line_for_each_method(finished):
    workdir, _, _ = finished
    svg = (workdir / "compare.svg").read_text()
    ElementTree.fromstring(svg)
    for method in METHODS:
        assert f"<!-- {systems.METHODS[method].title} -->" in svg


def test_what_diverges_does_not_take_the_others_with_it(root, tmp_path, monkeypatch):
    usual = pipeline.STAGES["evaluate"]

    def evaluate(this):
        if this.config.method == "zero_shot_prompt" and this.config.seed == 0:
            raise FloatingPointError("loss/total is nan at step 3")
        return usual(this)

    monkeypatch.setitem(pipeline.STAGES, "evaluate", evaluate)
    workdir = epath.Path(tmp_path)
    with pytest.raises(ValueError, match="one prompt, seed 0: .*step 3"):
        compared(root, workdir, METHODS[:2], 2)
    text = (workdir / "compare.md").read_text()
    assert "one prompt (1 of 2 seeds) |" in text and "ensemble |" in text
    monkeypatch.setitem(pipeline.STAGES, "evaluate", usual)
    text = compared(root, workdir, METHODS[:1], 1)
    assert "one prompt |" in text and "ensemble |" in text  # what is there stays


def test_a_directory_belongs_to_one_configuration(root, tmp_path):
    """Breaks if runs of two configurations come into one table."""
    compared(root, tmp_path, METHODS[:1], 1)
    with pytest.raises(ArtifactError, match="finetune.learning_rate: 0.0001 then"):
        compared(root, tmp_path, METHODS[:2], 1, finetune__learning_rate=5e-5)
    compared(root, tmp_path, METHODS[:1], 1, log__every_steps=3)


def test_it_goes_on_when_a_key_changes_that_no_stage_depends_on(root, tmp_path):
    """Breaks if a key of `faults`, `log` or `mesh` is compared, in what an older
    version kept too."""
    made_of = Comparison(configure(root), epath.Path(tmp_path))._artifact
    made_of.begin()
    path = tmp_path / "compare" / "settings.json"
    kept = json.loads(path.read_text())
    free = {"seed", "mesh", "log", "faults"}
    assert not free & {key.partition(".")[0] for key in kept}
    path.write_text(json.dumps({**kept, "faults.non_finite": "stop"}))
    changes = {"faults__non_finite": "skip", "log__keep_checkpoints": 5}
    for changed in (changes, {"mesh__accumulation_steps": 2, "seed": 3}):
        config = configure(root, **changed)
        Comparison(config, epath.Path(tmp_path))._artifact.check()
    other = configure(root, evaluate__knn_neighbours=3)
    with pytest.raises(ArtifactError, match="evaluate.knn_neighbours: 5 then, 3 now"):
        Comparison(other, epath.Path(tmp_path))._artifact.check()


def test_a_stage_begun_gives_way_to_a_finished_one(root, tmp_path):
    """Breaks if stages are taken past one that is unfinished: the run would be refused
    for ever after. What a person may edit is no other method's file."""
    made = Comparison(configure(root), epath.Path(tmp_path))
    made.run(["zero_shot_prompt", "vl_ltr"], 1)
    begun = tmp_path / "knn" / "seed_0"
    shutil.copytree(tmp_path / "vl_ltr" / "seed_0" / "embed", begun / "embed")
    (begun / "embed" / "artifact.json").unlink()
    assert "| kNN head |" in made.run(["knn"], 1)
    files = [
        tmp_path / method / "seed_0" / "finetune" / "artifact.json"
        for method in ("vl_ltr", "knn")
    ]
    assert files[0].read_text() == files[1].read_text()
    assert files[0].stat().st_ino != files[1].stat().st_ino
    for other in tmp_path.glob("*/seed_0/embed"):
        shutil.rmtree(other)
    with pytest.raises(ArtifactError, match="'embed'"):
        made.check(["knn"], 1)


def test_damaged_results_are_named(root, tmp_path):
    compared(root, tmp_path, METHODS[:1], 1)
    (tmp_path / METHODS[0] / "seed_0" / "results.json").write_text("{")
    with pytest.raises(ArtifactError, match="seed_0"):
        compared(root, tmp_path, METHODS[:1], 1)


@pytest.mark.parametrize(
    ("methods", "changes", "words"),
    [
        (["crt"], {"method": "crt"}, "--methods"),
        (["vl_ltr"], {"method": "cutoff"}, "--methods"),
        (["vl_ltr"], {"finetune__epochs": 0}, "vl_ltr: finetune.epochs=0"),
        (["knn", "crt"], {"classifier__global_batch_size": 12}, "crt: .* the 8 dev"),
        (["cb_focal"], {"pretrain__epochs": 0, "finetune__epochs": 0}, "cb_focal: "),
        (["ctr"], {}, "'crt'"),
        (["System"], {}, "did you mean 'systems'"),
        ([], {}, "--methods"),
    ],
)
def test_faults_are_named_before_anything_runs(root, tmp_path, methods, changes, words):
    with pytest.raises(configs.ConfigError, match=words):
        compared(root, tmp_path, methods_of(methods), 1, **changes)
    assert not list(tmp_path.iterdir())


def test_groups_of_methods():
    everything = methods_of(["all"])
    assert everything == list(systems.METHODS)
    assert methods_of(["systems"]) == list(systems.RECIPES)
    mixed = methods_of(["knn", "ablations"])
    assert mixed[:2] == ["knn", "vl_ltr"] and mixed.count("knn") == 1


def test_classes_are_grouped_from_rare_to_frequent():
    """Breaks if a class is left out, or groups are not ordered by count."""
    counts = np.random.default_rng(0).integers(0, 500, 57)
    groups = class_curves.group_classes(counts)
    assert len(groups) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(57))
    ends = [(counts[group].min(), counts[group].max()) for group in groups]
    assert all(a[1] <= b[0] for a, b in zip(ends, ends[1:], strict=False))
    assert len(class_curves.group_classes(counts[:3])) == 3


def test_a_class_without_test_images_leaves_the_mean_to_the_others():
    text = (
        "head,class,name,train_images,images,top1,top5\n"
        "fc,0,a,9,4,1,4\nfc,1,b,3,0,0,0\nlgr,0,a,9,4,4,4\nlgr,1,b,3,0,0,0\n"
    )
    found = tables.accuracy_per_class(text, "fc")
    np.testing.assert_array_equal(found, [25.0, np.nan])
    lines = {"A": found, "B": np.array([np.nan, np.nan])}
    panels = {"systems": lines, "ablations": {"A": found}}
    svg = class_curves.draw(panels, np.array([9, 3]), "A")
    assert svg == class_curves.draw(panels, np.array([9, 3]), "A")
