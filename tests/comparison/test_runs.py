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
from vl_ltr_jax.evaluate.split import NonFiniteScoreError
from vl_ltr_jax.report import class_curves
from vl_ltr_jax.report import tables as report
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import image_world

METHODS = ["zero_shot_prompt", "vl_ltr", "cutoff", "knn", "fc"]


def configure(root, **changes):
    config = image_world.configure(root)
    config.pretrain.epochs = config.pretrain.warmup_epochs = 0
    config.data.train_recipe, config.data.erase_probability = "none", 0.0
    config.finetune.feature_views = 1
    return configs.from_config_dict(image_world.change(config, **changes))


def compare(root, workdir, methods, num_seeds, **changes):
    comparison = Comparison(configure(root, **changes), epath.Path(workdir))
    comparison.check(methods, num_seeds)
    return comparison.run(methods, num_seeds)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return image_world.write(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """Two seeds of five methods; which stages ran in which method is counted."""
    workdir = epath.Path(tmp_path_factory.mktemp("compare"))
    calls = []

    def counted(name, stage):
        def run(this):
            calls.append((name, this.workdir.parent.name, this.config.seed))
            return stage(this)

        return run

    stages = {name: counted(name, stage) for name, stage in pipeline.STAGES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "STAGES", stages)
        text = compare(root, workdir, METHODS, 2)
        count = len(calls)
        assert compare(root, workdir, METHODS, 2) == text
        assert len(calls) == count  # a finished stage does not run again
    return workdir, text, calls


def test_a_stage_that_methods_have_in_common_runs_once(finished):
    """Breaks if what is shared is made again, or what differs is shared."""
    for seed in (0, 1):
        assert [(stage, method) for stage, method, s in finished[2] if s == seed] == [
            *(("embed", "zero_shot_prompt"), ("evaluate", "zero_shot_prompt")),
            *(("anchors", "vl_ltr"), ("finetune", "vl_ltr"), ("evaluate", "vl_ltr")),
            *(("anchors", "cutoff"), ("finetune", "cutoff"), ("evaluate", "cutoff")),
            *(("evaluate", "knn"), ("finetune", "fc"), ("evaluate", "fc")),
        ]


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
            assert (float(row[name]) if row[name] else None) == groups[name]
        assert int(row["images_seen"]) == results["cost"]["images_seen"]
        # 36 images in batches of 8 are 4 steps an epoch, 3 epochs.
        trained = row["method"] != "zero_shot_prompt"
        assert int(row["images_seen"]) == (3 * 4 * 8 if trained else 0)
        costs = results["cost"]["stages"]
        seconds = sum(costs[s]["seconds"] for s in costs if s != "evaluate")
        assert float(row["seconds"]) == pytest.approx(seconds, abs=0.06)


def test_table_and_figure_have_mean_and_spread_over_seeds(finished):
    workdir, text, _ = finished
    assert text == (workdir / "compare.md").read_text()
    assert all(text.count(title) == 1 for title in report.RULE_NAMES.values())
    top1 = [results_of(workdir, "knn", s)["test"]["knn"]["top1"] for s in (0, 1)]
    cell = f"{statistics.fmean(top1):.1f} ± {statistics.stdev(top1):.1f}"
    assert text.count(f"| kNN head | ViT-tiny | {cell} | - |") == 2
    svg = (workdir / "compare.svg").read_text()
    ElementTree.fromstring(svg)
    assert all(f"<!-- {systems.METHODS[name].title} -->" in svg for name in METHODS)


def test_a_method_that_diverges_loses_its_row_alone(root, tmp_path, monkeypatch):
    evaluate = pipeline.STAGES["evaluate"]

    def diverge(this):
        if this.config.method == "zero_shot_prompt" and this.config.seed == 0:
            raise FloatingPointError("loss/total is nan at step 3")
        return evaluate(this)

    monkeypatch.setitem(pipeline.STAGES, "evaluate", diverge)
    methods = ["zero_shot_prompt", "zero_shot_ensemble"]
    with pytest.raises(NonFiniteScoreError, match="one prompt, seed 0: "):
        compare(root, tmp_path, methods, 2)
    text = (tmp_path / "compare.md").read_text()
    assert "one prompt (1 of 2 seeds) |" in text and "ensemble |" in text
    monkeypatch.setitem(pipeline.STAGES, "evaluate", evaluate)
    text = compare(root, tmp_path, methods[:1], 1)
    assert "one prompt |" in text and "ensemble |" in text  # old rows stay
    (tmp_path / methods[0] / "seed_0" / "results.json").write_text("{")
    with pytest.raises(ArtifactError, match="seed_0"):
        compare(root, tmp_path, methods[:1], 1)


def test_it_goes_on_when_a_key_changes_that_no_stage_depends_on(root, tmp_path):
    """Breaks if a key of `faults`, `log` or `mesh` is compared, or another is not."""

    def check(**changes):
        comparison = Comparison(configure(root, **changes), epath.Path(tmp_path))
        comparison.check(METHODS[:1], 1)

    Comparison(configure(root), epath.Path(tmp_path)).run([], 1)
    path = tmp_path / "compare" / "settings.json"
    stored = json.loads(path.read_text())
    sections = {key.partition(".")[0] for key in stored}
    assert not {"seed", "mesh", "log", "faults"} & sections
    # An older version stored a key that is compared no more.
    path.write_text(json.dumps({**stored, "faults.non_finite": "stop"}))
    check(faults__non_finite="skip", log__keep_checkpoints=5)
    check(mesh__data=8, seed=3)
    with pytest.raises(ArtifactError, match="evaluate.knn_neighbours"):
        check(evaluate__knn_neighbours=3)


def test_an_unfinished_stage_gives_way_to_a_finished_one(root, tmp_path):
    """Breaks if stages are taken past one that is unfinished: the run would be refused
    for ever after. What a person may edit is no other method's file."""
    comparison = Comparison(configure(root), epath.Path(tmp_path))
    comparison.run(["zero_shot_prompt", "vl_ltr"], 1)
    target = tmp_path / "knn" / "seed_0" / "embed"
    shutil.copytree(tmp_path / "vl_ltr" / "seed_0" / "embed", target)
    (target / "artifact.json").unlink()
    assert "| kNN head |" in comparison.run(["knn"], 1)
    source, copy = (
        tmp_path / method / "seed_0" / "finetune" / "artifact.json"
        for method in ("vl_ltr", "knn")
    )
    assert source.read_text() == copy.read_text()
    assert source.stat().st_ino != copy.stat().st_ino
    for path in tmp_path.glob("*/seed_0/embed"):
        shutil.rmtree(path)
    with pytest.raises(ArtifactError, match="'embed'"):
        comparison.check(["knn"], 1)


@pytest.mark.parametrize(
    ("methods", "changes", "words"),
    [
        (["crt"], {"method": "crt"}, "--methods"),
        (["vl_ltr"], {"finetune__epochs": 0}, "vl_ltr: finetune.epochs=0"),
        (["knn", "crt"], {"classifier__global_batch_size": 12}, "crt: .* the 8 dev"),
        (["ctr"], {}, "'crt'"),
        (["System"], {}, "did you mean 'systems'"),
        ([], {}, "--methods"),
    ],
)
def test_faults_are_named_before_anything_runs(root, tmp_path, methods, changes, words):
    with pytest.raises(configs.ConfigError, match=words):
        compare(root, tmp_path, methods_of(methods), 1, **changes)
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


def test_a_class_without_test_images_leaves_the_mean():
    text = (
        "head,class,name,train_images,images,top1,top5\n"
        "fc,0,a,9,4,1,4\nfc,1,b,3,0,0,0\nlgr,0,a,9,4,4,4\nlgr,1,b,3,0,0,0\n"
    )
    accuracies = tables.accuracy_per_class(text, "fc")
    np.testing.assert_array_equal(accuracies, [25.0, np.nan])
    lines = {"A": accuracies, "B": np.array([np.nan, np.nan])}
    panels = {"systems": lines, "ablations": {"A": accuracies}}
    ElementTree.fromstring(class_curves.draw(panels, np.array([9, 3]), "A"))
