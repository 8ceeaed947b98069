import json
from pathlib import Path

import numpy as np
import pytest

from vl_ltr_jax import shots

GOLDEN = Path(__file__).parent / "golden" / "eval"
ARRAYS = np.load(GOLDEN / "shot_acc.npz")
CASES = json.loads((GOLDEN / "shot_acc.json").read_text())
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


def test_accuracy_weighs_images_not_classes():
    accuracies = shots.shot_accuracies(
        np.array([1, 8]), np.array([1, 11]), np.array([200, 300]), "standard"
    )
    assert accuracies == {"many": 75.0, "medium": None, "few": None}


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"'oltr'.*'standard', 'vl_ltr'"):
        shots.shot_groups(np.array([1]), "oltr")
    with pytest.raises(ValueError, match=r"train_counts\[1\] is -3"):
        shots.shot_groups(np.array([1, -3]), "standard")
