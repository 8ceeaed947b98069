"""What the report shows: numbers, orders and choices, before anything is drawn."""

import numpy as np
import pytest

from vl_ltr_jax.report.page import learning, per_class, pictures, sentences, text
from vl_ltr_jax.report.page.gather import gather
from worlds.report_world import COUNTS, HOSTILE, arguments, explained, ranked, selection


def test_the_header_has_the_numbers_of_the_runs_own_head():
    content = gather(**arguments())
    assert [(tile.group, tile.percent) for tile in content.tiles] == [
        ("overall", 71.25),
        ("many", 85.5),
        ("medium", 76.25),
        ("few", 56.5),
    ]
    assert [tile.detail for tile in content.tiles] == [
        "6 classes · top-5 95.0",
        "2 classes · over 100 images",
        "2 classes · 20–100 images",
        "2 classes · under 20 images",
    ]


def test_the_table_is_the_papers_with_the_best_of_each_column():
    given = arguments()  # JAX sorts heads by their names
    given["results"]["test"] = dict(reversed(given["results"]["test"].items()))
    test, val = gather(**given).tables
    standard, vl_ltr = test.rules.values()
    ours, other = standard
    assert (ours.method, ours.main) == ("VL-LTR (LGR)", True)
    assert ours.cells == ("71.2", "85.5", "76.2", "56.5")
    assert other.cells == ("21.5", "26.4", "77.1", "-")
    assert ours.best == (True, True, False, True)
    assert other.best == (False, False, True, False)
    assert vl_ltr[0].cells[3] == "12.5"
    assert (test.images, val.images) == (60, 12)
    assert not any(val.rules[name][0].best[0] for name in val.rules)  # alone


def test_accuracy_and_mistakes_of_a_class_are_counted():
    shown = gather(**arguments()).per_class
    np.testing.assert_allclose(shown.percent, [100, 90, 80, 70, 60, 50])
    worst = shown.worst[0]
    assert (worst.group, worst.train_images, worst.percent) == ("few", 2, 50.0)
    assert worst.taken_for == ((text.name(HOSTILE[4]), 5),)
    assert [line.percent for line in shown.worst] == [50, 60, 70, 80, 90]
    assert [line.train_images for line in shown.listed] == sorted(COUNTS)


def test_of_equally_bad_classes_the_frequent_one_comes_first():
    given = ranked(num_classes=3)
    wrong = given._replace(classes=(given.labels[:, None] + 1) % 3)
    shown = per_class.per_class("test", wrong, ["a", "b", "c"], np.array([5, 90, 20]))
    assert [line.name for line in shown.worst] == ["b", "c", "a"]


def test_the_confusion_matrix_begins_with_the_most_confused_pair():
    lines = gather(**arguments()).confusion
    assert [line.name for line in lines[:2]] == [text.name(n) for n in HOSTILE[5:3:-1]]
    assert lines[0].shares[:2] == (50.0, 50.0)
    assert lines[1].shares[:3] == (0.0, 60.0, 40.0)
    assert all(line.elsewhere == 0 for line in lines)


def test_the_confusion_matrix_is_bounded():
    many = ranked(num_classes=40, per_class=50)
    lines = per_class.confusion(many, [str(n) for n in range(40)], np.full(40, 30))
    assert [line.name for line in lines] == [str(n) for n in range(39, 27, -1)]
    assert lines[-1].elsewhere == pytest.approx(100 * 28 / 50)
    np.testing.assert_allclose([sum(x.shares) + x.elsewhere for x in lines], 100)


def test_pairs_are_ordered_by_number_and_share():
    """12 of 100 are more than the only one, and 3 of 4 are more than both."""
    labels = np.repeat([0, 1, 2], [100, 1, 4]).astype(np.int32)
    answers = np.where(np.arange(105) < 12, 3, labels)
    answers[100], answers[101:104] = 4, 5
    given = ranked()._replace(labels=labels, classes=answers[:, None].astype(np.int32))
    found = per_class.mistakes(given, 6)
    assert found.true.tolist() == [2, 0, 1]
    assert found.given.tolist() == [5, 3, 4]
    assert found.images.tolist() == [3, 12, 1]


def test_sentences_are_shown_from_good_to_bad_with_their_losses():
    first, *_ = examples = gather(**arguments()).anchors
    assert [one.group for one in examples] == [
        "many",
        "many",
        "medium",
        "medium",
        "few",
    ]
    np.testing.assert_allclose([s.score for s in first.best], [0, 1, 2])
    np.testing.assert_allclose([s.score for s in first.worst], [3, 4, 5])
    assert [s.chosen for s in first.best] == [True, True, False]
    assert first.best[0].text == f"Sentence 0 of {HOSTILE[0]}"
    assert (first.num_anchors, first.num_sentences) == (2, 6)
    assert text.name(HOSTILE[5]) not in [one.name for one in examples]  # no images


def test_the_classes_shown_are_those_whose_sentences_differ_most():
    given = selection([f"class {n}" for n in range(9)])
    given.scores[given.labels == 4] *= 3
    shown = sentences.examples(
        given, [f"class {n}" for n in range(9)], np.full(9, 50), 2
    )
    assert [one.name for one in shown] == ["class 4", "class 0"]


def test_predictions_say_what_the_head_attended_to():
    right, wrong = gather(**arguments()).explained
    assert right.right and not wrong.right
    assert [(s.percent, s.cosine) for s in right.sentences] == [(62.5, 0.31), (25, 0.1)]
    assert right.branches == {"visual": 50.0, "language": 87.5}
    assert not wrong.branches and not wrong.sentences
    assert [answer.percent for answer in right.answers] == [75.0, 12.5]
    # Two classes of one name, as ImageNet has them: only the true one is right.
    same = [HOSTILE[0]] * len(HOSTILE)
    given = arguments(class_names=same, explained=explained(same))
    right, wrong = gather(**given).explained
    assert right.right and not wrong.right


def test_pictures_to_explain_are_of_every_group_right_and_wrong():
    given = ranked(per_class=10)
    chosen = pictures.choose(given, np.array(COUNTS), 6)
    answers = given.classes[chosen, 0]
    assert (answers == given.labels[chosen]).tolist() == [True, False] * 3
    assert given.labels[chosen].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(pictures.choose(given, np.array(COUNTS))) == 11  # no class twice
    none = type(given)(*(rows[:0] for rows in given))
    assert not len(pictures.choose(none, np.array(COUNTS)))


def test_only_what_differs_is_listed_before_all_keys():
    settings = gather(**arguments()).settings
    assert list(settings) == ["", "model", "data"]
    told = {s.key: (s.value, s.default) for keys in settings.values() for s in keys}
    assert told["model.backbone"] == ("ViT-tiny", "ViT-B/16")
    assert told["data.context_length"] == ("77", None)
    assert told["data.root"] == ("/home/<me>/", "none")
    assert told["data.flown"] == ("True", None)  # a key that is no more
    assert told["seed"] == ("3", "0")


def test_curves_are_sorted_into_figures():
    (stage,) = gather(**arguments()).curves
    assert list(stage.panels) == list(learning.PANELS)
    losses = [curve.name for curve in stage.panels["Loss"]]
    assert losses == ["total", "contrastive", "contrastive image", "distillation"]


def test_curves_are_thinned_and_hold_numbers_only():
    steps = np.arange(100_000)
    values = np.where(steps % 7, steps, np.nan)
    curve = learning.thinned("total", steps, values)
    assert len(curve.steps) == learning.MAX_POINTS
    assert (curve.steps[0], curve.steps[-1]) == (1, 99_999)
    np.testing.assert_array_equal(curve.steps, curve.values)


def test_texts_are_shortened_and_can_be_written():
    assert text.line("a\n  b\tc", 10) == "a b c"
    assert text.line("abcdef", 5) == "abcd…"
    assert text.line("x" * 10**7, 5) == "xxxx…"
    assert text.line("a\x00b\ud800", 9) == "a\ufffdb\ufffd"
    assert text.line(" " * 100 + "b", 9).endswith("…")
