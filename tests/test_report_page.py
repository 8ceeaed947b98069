"""The report as a page: what it shows, that it needs nothing, that texts stay texts."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_world import (
    COUNTS,
    HOSTILE,
    arguments,
    curves,
    head,
    ranked,
    results,
    selection,
)

from vl_ltr_jax.page import learning, per_class, pictures, sentences, text
from vl_ltr_jax.page.gather import Method, gather
from vl_ltr_jax.page.render import render

VOID = {"meta", "link", "img"}
KNOWN = set(
    "html head meta link title style body header main nav section article footer p ul "
    "ol li h1 h2 h3 div span bdi i b small sub a dl dt dd table caption thead tbody tr "
    "th td details summary img figure svg g defs path use text clippath rect line "
    "circle".split()
)
URL_ATTRIBUTES = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


class Page(HTMLParser):
    """Elements with their attributes and texts, checked for balance."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((tuple(self.open), data))

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        """All that is to be read, in one line."""
        read = (data for path, data in self.texts if "style" not in path)
        return " ".join(" ".join(read).split())


@pytest.fixture(scope="module")
def html():
    return render(gather(**arguments()))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def parts(page):
    """The page's sections by the ids that its contents point to."""
    ids = [attributes["id"] for attributes in page.of("section")]
    links = [a["href"] for a in page.of("a")]
    assert links == [f"#{name}" for name in ids]
    return set(ids)


def test_names_and_sentences_of_others_are_text(page):
    assert {tag for tag, _ in page.elements} <= KNOWN
    isolated = [data for path, data in page.texts if path[-1] == "bdi"]
    for name in HOSTILE:
        assert text.name(name) in isolated
    assert f"Sentence 0 of {HOSTILE[0]}" in isolated
    assert f"It looks like {HOSTILE[0]}" in isolated
    assert "/home/<me>/" in isolated
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]


def test_a_name_stays_what_it_is_where_a_mouse_rests_on_its_mark(page):
    titles = [data for path, data in page.texts if path[-2:] == ("use", "title")]
    assert len(titles) == len(HOSTILE)
    for name, title in zip(HOSTILE, titles, strict=True):
        assert title.startswith(text.name(name))


def test_nothing_comes_from_elsewhere(html, page):
    for tag, attributes in page.elements:
        for name in attributes.keys() & URL_ATTRIBUTES:
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    styles = "".join(data for path, data in page.texts if path[-1] == "style")
    assert "url(" not in styles and "@import" not in styles
    (policy,) = [m for m in page.of("meta") if "http-equiv" in m]
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "://" not in re.sub(r'="data:[^"]*"', "", html)


def test_ids_are_unique_and_every_reference_has_one(page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "clip-path"):
            found = re.search(r"#([^)]+)", attributes.get(name, "") or "")
            assert not found or found[1] in ids


def test_figures_take_the_colours_of_the_page(page):
    figures = [a for a in page.of("svg") if a.get("role") == "img"]
    assert all(a["aria-label"] for a in figures)
    inks = [
        a["style"]
        for tag, a in page.elements
        if tag in ("path", "use", "text") and "style" in a
    ]
    assert "var(--many)" in " ".join(inks) and "var(--ink)" in " ".join(inks)
    assert not re.search(r"#[0-9a-f]{6}|font-family", " ".join(inks))


def test_the_same_run_gives_the_same_page(html):
    assert render(gather(**arguments())) == html


def test_the_header_has_the_numbers_of_the_runs_own_head():
    content = gather(**arguments())
    assert [(card.group, card.percent) for card in content.cards] == [
        ("overall", 71.25),
        ("many", 85.5),
        ("medium", 76.25),
        ("few", 56.5),
    ]
    assert [card.detail for card in content.cards] == [
        "6 classes · top-5 95.0",
        "2 classes · over 100 images",
        "2 classes · 20–100 images",
        "2 classes · under 20 images",
    ]


def test_the_table_is_the_papers_with_the_best_of_each_column():
    test, val = gather(**arguments()).tables
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


def test_sentences_are_shown_from_good_to_bad_with_their_losses(page):
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
    assert "5.50" in page.words


def test_the_classes_shown_are_those_whose_sentences_differ_most():
    given = selection([f"class {n}" for n in range(9)])
    given.scores[given.labels == 4] *= 3
    shown = sentences.examples(
        given, [f"class {n}" for n in range(9)], np.full(9, 50), 2
    )
    assert [one.name for one in shown] == ["class 4", "class 0"]


def test_predictions_say_what_the_head_attended_to(page):
    right, wrong = gather(**arguments()).explained
    assert right.right and not wrong.right
    assert [(s.percent, s.cosine) for s in right.sentences] == [(62.5, 0.31), (25, 0.1)]
    assert right.branches == {"visual": 50.0, "language": 87.5}
    assert not wrong.branches and not wrong.sentences
    assert [answer.percent for answer in right.answers] == [75.0, 12.5]
    assert "62.5 %" in page.words


def test_pictures_are_inside_the_page(page):
    tiny, large = page.of("img")
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    np.testing.assert_array_equal(np.asarray(opened(tiny["src"])), pixels)
    assert (tiny["width"], tiny["height"], tiny["class"]) == ("160", "160", "enlarged")
    assert opened(large["src"]).size == (160, 120)
    assert "class" not in large and large["alt"].endswith(HOSTILE[2])


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


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


def test_curves_are_sorted_into_figures(page):
    (stage,) = gather(**arguments()).curves
    assert list(stage.panels) == list(learning.PANELS)
    losses = [curve.name for curve in stage.panels["Loss"]]
    assert losses == ["total", "contrastive", "contrastive image", "distillation"]
    assert "distillation 4.47" in page.words


def test_curves_are_thinned_and_hold_numbers_only():
    steps = np.arange(100_000)
    values = np.where(steps % 7, steps, np.nan)
    curve = learning.thinned("total", steps, values)
    assert len(curve.steps) == learning.MAX_POINTS
    assert (curve.steps[0], curve.steps[-1]) == (1, 99_999)
    np.testing.assert_array_equal(curve.steps, curve.values)


NOTHING = {"ranked": None, "curves": None, "selection": None, "explained": ()}
ALWAYS = {"results", "data", "configuration", "cost"}


@pytest.mark.parametrize(
    "changes, missing",
    [
        ({"ranked": None}, {"classes", "confusion"}),
        ({"curves": None}, {"learning"}),
        ({"curves": {"pretrain": {}}}, {"learning"}),
        ({"selection": None}, {"anchors"}),
        ({"explained": ()}, {"predictions"}),
        (NOTHING, {"classes", "confusion", "learning", "anchors", "predictions"}),
    ],
    ids=[
        "no images",
        "no curves",
        "empty curves",
        "no anchors",
        "no pictures",
        "nothing",
    ],
)
def test_what_a_run_has_not_is_left_out(changes, missing):
    shown = parts(Page(render(gather(**arguments(**changes)))))
    everything = ALWAYS | {"classes", "confusion", "learning", "anchors", "predictions"}
    assert shown == everything - missing


def test_a_run_without_training_and_test_images_has_a_page():
    nothing = head(None, (None, None, None), None)
    told = results(
        test={"zero_shot": nothing}, val={"zero_shot": head(2.5, (5.0, None, 0.0))}
    )
    told["data"] |= {"smallest_class": 0, "sentences": 0}
    content = gather(
        **arguments(
            **NOTHING,
            results=told,
            method=Method("Zero-shot", "zero_shot", {"zero_shot": "Ours"}),
        )
    )
    assert (content.split, content.cards[0].percent) == ("validation", 2.5)
    assert "Ours" in Page(render(content)).words
    told["val"] = {"zero_shot": nothing}
    content = gather(
        **arguments(**NOTHING, results=told, method=Method("x", "zero_shot"))
    )
    assert "–" in Page(render(content)).words


@pytest.mark.parametrize("num_classes", [1, 2])
def test_one_or_two_classes_have_a_page(num_classes):
    names = HOSTILE[:num_classes]
    given = arguments(
        class_names=names,
        train_counts=np.zeros(num_classes, int),
        ranked={"test": ranked(num_classes)},
        selection=selection((*names, "")),
    )
    given["results"]["data"]["num_classes"] = num_classes
    page = Page(render(gather(**given)))
    assert "classes" in parts(page)
    assert ("confusion" in parts(page)) == (num_classes > 1)


def test_a_split_where_everything_is_right_confuses_nothing():
    given = ranked(per_class=4)
    perfect = given._replace(classes=given.labels[:, None])
    content = gather(**arguments(ranked={"test": perfect}))
    assert not content.confusion and not content.per_class.worst
    assert "confusion" not in parts(Page(render(content)))


def test_a_page_of_many_classes_is_small():
    names = [f"Species {n} <{'x' * 500}>" for n in range(8142)]
    counts = np.maximum(1000 / np.arange(1, 8143) ** 0.7, 2).astype(int)
    labels = np.repeat(np.arange(8142, dtype=np.int32), 3)
    answers = np.where(np.arange(len(labels)) % 3, labels, (labels * 7) % 8142)
    told = ranked(num_classes=8142, per_class=3)._replace(
        classes=np.stack([answers, (answers + 1) % 8142], 1).astype(np.int32)
    )
    long = selection([f"{n} is {'long ' * 2000}" for n in range(50)], per_class=500)
    padded = [(0, 8142 - 50), (0, 0)]
    long = long._replace(
        indices=np.pad(long.indices, padded),
        padding=np.pad(long.padding, padded, constant_values=True),
    )
    given = arguments(
        class_names=names,
        train_counts=counts,
        ranked={"test": told},
        selection=long,
        curves=curves(50_000),
    )
    given["results"]["data"]["num_classes"] = 8142
    html = render(gather(**given))
    assert len(html.encode()) < 2e6
    words = Page(html).words
    assert "The 300 classes with the lowest accuracy" in words


def test_texts_are_shortened_and_can_be_written():
    assert text.line("a\n  b\tc", 10) == "a b c"
    assert text.line("abcdef", 5) == "abcd…"
    assert text.line("x" * 10**7, 5) == "xxxx…"
    assert text.line("a\x00b\ud800", 9) == "a\ufffdb\ufffd"
    assert text.line(" " * 100 + "b", 9).endswith("…")
