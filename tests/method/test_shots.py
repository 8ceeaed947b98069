"""Accuracies by the number of training images, under both rules."""

import numpy as np
import pytest

from vl_ltr_jax.method import shots
from worlds.golden import load

ARRAYS, CASES = load("eval/shot_acc.npz"), load("eval/shot_acc.json")
NAMES = {"many": "many", "median": "medium", "low": "few"}


@pytest.mark.parametrize("case", range(len(CASES)))
def test_vl_ltr_rule_matches_vl_ltr(case):
    """Breaks when 20 becomes medium, 100 medium, or a class without images few."""
    counts = ARRAYS[f"c{case}/train_class_count"]
    labels, predictions = ARRAYS[f"c{case}/labels"], ARRAYS[f"c{case}/preds"]
    total = np.bincount(labels, minlength=len(counts))
    correct = np.bincount(labels[labels == predictions], minlength=len(counts))
    accuracies = shots.shot_accuracies(correct, total, counts, "vl_ltr")
    for theirs, ours in NAMES.items():
        expected = CASES[case][theirs]
        members = shots.shot_groups(counts, "vl_ltr")[ours]
        assert total[members].sum() == expected["total"]
        assert correct[members].sum() == expected["correct"]
        if expected["total"]:
            assert accuracies[ours] == pytest.approx(expected["acc"], rel=1e-12)
        else:
            assert accuracies[ours] is None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("standard", "few few few medium medium medium medium many"),
        ("vl_ltr", "- few few few medium medium many many"),
    ],
)
def test_bounds(rule, expected):
    """The two rules differ at 0, 20 and 100; every other class has one group."""
    counts = np.array([0, 1, 19, 20, 21, 99, 100, 101])
    groups = shots.shot_groups(counts, rule)
    names = [[n for n in groups if groups[n][i]] for i in range(len(counts))]
    assert [name[0] if name else "-" for name in names] == expected.split()
    assert max(map(len, names)) == 1


def test_the_standard_rule_is_a_mean_over_classes_and_vl_ltrs_over_images():
    """Breaks when images of a group are pooled, as in VL-LTR's code, or are not."""
    case = load("eval/unbalanced_test_counts.json")
    counts, correct, total = (
        np.array(case[key]) for key in ("train_counts", "correct", "total")
    )
    for rule, key in (
        ("standard", "mean_over_classes_as_the_literature_has_it"),
        ("vl_ltr", "mean_over_images"),
    ):
        accuracies = shots.shot_accuracies(correct, total, counts, rule)
        assert accuracies["few"] == pytest.approx(case[key], rel=1e-12)
        assert accuracies["many"] is accuracies["medium"] is None
    assert shots.class_mean(correct, total) == pytest.approx(40.0, rel=1e-12)
    assert shots.image_mean(correct, total) == pytest.approx(100 / 7, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_standard_rule_is_oltrs(seed):
    """Against the mean of each class's accuracy, class by class, group by group.

    Breaks when a class without test images counts as 0, or the mean is over all C.
    """
    rng = np.random.default_rng(seed)
    counts, total = rng.integers(0, 200, 60), rng.integers(0, 9, 60)
    correct = rng.binomial(total, 0.4)
    groups: dict[str, list[float]] = {"many": [], "medium": [], "few": []}
    for images, hits, tested in zip(counts, correct, total, strict=True):
        name = "many" if images > 100 else "few" if images < 20 else "medium"
        if tested:
            groups[name].append(hits / tested)
    expected = {name: 100 * sum(each) / len(each) for name, each in groups.items()}
    accuracies = shots.shot_accuracies(correct, total, counts, "standard")
    assert accuracies == pytest.approx(expected, rel=1e-12)
    every = sum(groups.values(), [])
    assert shots.class_mean(correct, total) == pytest.approx(100 * np.mean(every))


def test_the_rules_agree_where_the_test_set_is_balanced():
    rng = np.random.default_rng(0)
    counts = rng.permutation(np.r_[2:19, 22:98, 102:120])  # no bound of either rule
    correct, total = rng.integers(0, 26, len(counts)), np.full(len(counts), 25)
    standard, pooled = (
        shots.shot_accuracies(correct, total, counts, rule) for rule in shots.SHOT_RULES
    )
    assert standard == pytest.approx(pooled, rel=1e-12)
    overall = shots.image_mean(correct, total)
    assert shots.class_mean(correct, total) == pytest.approx(overall, rel=1e-12)


def test_no_images_no_accuracy():
    zeros = np.zeros(3, int)
    assert shots.class_mean(zeros, zeros) is shots.image_mean(zeros, zeros) is None
    for rule in shots.SHOT_RULES:
        accuracies = shots.shot_accuracies(zeros, zeros, np.array([1, 50, 200]), rule)
        assert set(accuracies.values()) == {None}
