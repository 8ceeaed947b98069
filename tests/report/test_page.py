"""The report as a page: what it shows, that it needs nothing, that texts stay texts."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vl_ltr_jax.evaluate.accuracy import Ranking
from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.gather import Method, gather
from vl_ltr_jax.report.page.render import render
from worlds.report_world import (
    HOSTILE,
    arguments,
    curves,
    explained,
    head,
    ranked,
    results,
    selection,
)

VOID = {"meta", "link", "img"}
KNOWN = set(
    "html head meta link title style body header main nav section article footer p ul "
    "ol li h1 h2 h3 div span bdi i b small sub a dl dt dd table caption thead tbody tr "
    "th td details summary img figure figcaption svg g defs path use text clippath "
    "rect line circle".split()
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


def test_the_page_says_what_it_shows_and_how_it_was_chosen(page):
    """Breaks if an axis loses its scale, or extremes pass for a sample."""
    for words in (
        "training images of the class, log scale",
        "training images, log scale",
        "training images by class, log scale",
        "100 and 20 images",
        "1 test image that was recognised and 1 that was not, each under its true",
        "extremes, and no fair sample",
        "The 6 classes of the most frequent mistakes",
        "(5 of 10)",
        "Batch accuracy in percent",
    ):
        assert words in page.words, words


def test_numbers_are_where_they_are_to_be_read(page):
    for words in ("71.2", "5.50", "62.5 %", "distillation 4.47", "1m 00s"):
        assert words in page.words


def test_the_same_run_gives_the_same_page(html):
    assert render(gather(**arguments())) == html


def test_pictures_are_inside_the_page(page):
    tiny, large = page.of("img")
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    np.testing.assert_array_equal(np.asarray(opened(tiny["src"])), pixels)
    assert (tiny["width"], tiny["height"], tiny["class"]) == ("160", "160", "enlarged")
    assert opened(large["src"]).size == (160, 120)
    assert "class" not in large and large["alt"].endswith(HOSTILE[2])


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


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
    assert (content.split, content.tiles[0].percent) == ("validation", 2.5)
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
        explained=explained()[:1],
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


def test_many_classes_of_one_group_have_a_page():
    """Breaks if a group without classes is drawn."""
    names = [f"class {number}" for number in range(2500)]
    labels, ones = np.arange(2500, dtype=np.int32), np.ones((2500, 1))
    given = arguments(
        class_names=names,
        train_counts=np.full(2500, 7),
        ranked={"test": Ranking(labels, labels[:, None], ones, ones[:, 0])},
        selection=None,
    )
    assert "classes" in parts(Page(render(gather(**given))))


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
