"""The report's page: its numbers, and that it loads nothing and runs no text."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vl_ltr_jax.report.page import learning, per_class, pictures, sentences, text
from vl_ltr_jax.report.page.gather import Method, gather
from vl_ltr_jax.report.page.render import render
from worlds import report_world as world

NAMES = [text.name(name) for name in world.HOSTILE]
LOADED = {"script", "iframe", "object", "embed", "form", "base"}
URL_ATTRIBUTES = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}

VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Elements with their attributes, and texts with the path of their elements."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.html = html
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

    def attributes_of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        """All readable text in one line."""
        texts = (data for path, data in self.texts if "style" not in path)
        return " ".join(" ".join(texts).split())


@pytest.fixture(scope="module")
def content():
    return gather(**world.arguments())


@pytest.fixture(scope="module")
def page(content):
    html = render(content)
    assert render(gather(**world.arguments())) == html
    return Page(html)


def test_the_header_and_the_table_hold_the_papers_numbers(content):
    percents = [tile.percent for tile in content.tiles]
    assert percents == [71.25, 85.5, 76.25, 56.5]
    assert content.tiles[3].detail == "2 classes · under 20 images"
    test, val = content.tables
    (ours, other), vl_ltr = test.rules.values()
    assert (ours.method, ours.main) == ("VL-LTR (LGR)", True)
    assert ours.cells == ("71.2", "85.5", "76.2", "56.5")
    assert other.cells == ("21.5", "26.4", "77.1", "-")
    assert (ours.best, other.best[2]) == ((True, True, False, True), True)
    assert vl_ltr[0].cells[3] == "12.5"
    assert (test.images, val.images) == (60, 12)
    assert not any(val.rules[name][0].best[0] for name in val.rules)  # alone


def test_accuracies_and_confusions_of_classes_are_counted(content):
    classes = content.per_class
    np.testing.assert_allclose(classes.percent, [100, 90, 80, 70, 60, 50])
    worst = classes.worst[0]
    assert (worst.group, worst.train_images, worst.percent) == ("few", 2, 50.0)
    assert worst.taken_for == ((NAMES[4], 5),)
    assert [line.percent for line in classes.worst] == [50, 60, 70, 80, 90]
    assert [line.train_images for line in classes.listed] == sorted(world.COUNTS)
    first, second, *_ = content.confusion
    assert [first.name, second.name] == [NAMES[5], NAMES[4]]
    assert first.shares[:2] == (50.0, 50.0) and second.shares[:3] == (0.0, 60.0, 40.0)


def test_pairs_are_ordered_by_number_and_share():
    """12 of 100 come before 1 of 1, and 3 of 4 before both."""
    labels = np.repeat([0, 1, 2], [100, 1, 4]).astype(np.int32)
    predicted = np.where(np.arange(105) < 12, 3, labels)
    predicted[100], predicted[101:104] = 4, 5
    classes = predicted[:, None].astype(np.int32)
    pairs = per_class.mistakes(
        world.ranked()._replace(labels=labels, classes=classes), 6
    )
    assert pairs.true.tolist() == [2, 0, 1]
    assert pairs.predicted.tolist() == [5, 3, 4]
    assert pairs.images.tolist() == [3, 12, 1]


def test_sentences_are_sorted_by_their_losses(content):
    first, *_ = examples = content.anchors
    groups = [example.group for example in examples]
    assert groups == ["many", "many", "medium", "medium", "few"]  # one lacks images
    np.testing.assert_allclose([s.score for s in first.best], [0, 1, 2])
    np.testing.assert_allclose([s.score for s in first.worst], [3, 4, 5])
    assert [s.chosen for s in first.best] == [True, True, False]
    assert (first.num_anchors, first.num_sentences) == (2, 6)
    names = [f"class {n}" for n in range(9)]
    wide = world.selection(names)
    wide.scores[wide.labels == 4] *= 3
    examples = sentences.examples(wide, names, np.full(9, 50), 2)
    assert [example.name for example in examples] == ["class 4", "class 0"]


def test_predictions_carry_their_evidence():
    # Two classes of one name, as in ImageNet: only the true one is right.
    same = [world.HOSTILE[0]] * len(world.HOSTILE)
    right, wrong = gather(
        **world.arguments(class_names=same, explained=world.explained(same))
    ).explained
    assert right.right and not wrong.right
    first = right.sentences[0]
    assert (first.weight, first.cosine) == (0.625, 0.31)
    assert right.branches == {"visual": 50.0, "language": 87.5}
    assert not wrong.branches and not wrong.sentences
    assert [guess.percent for guess in right.guesses] == [75.0, 12.5]


def test_explained_pictures_cover_all_groups_right_and_wrong():
    ranking, counts = world.ranked(per_class=10), np.array(world.COUNTS)
    chosen = pictures.choose(ranking, counts, 6)
    predicted = ranking.classes[chosen, 0]
    assert (predicted == ranking.labels[chosen]).tolist() == [True, False] * 3
    assert ranking.labels[chosen].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(pictures.choose(ranking, counts)) == 11  # no class twice
    empty = type(ranking)(*(rows[:0] for rows in ranking))
    assert not len(pictures.choose(empty, counts))


def test_curves_are_grouped_and_thinned(content):
    panels = content.curves["pretrain"]
    assert list(panels) == list(learning.PANELS)
    steps = np.arange(100_000)
    curve = learning.thinned("total", steps, np.where(steps % 7, steps, np.nan))
    assert len(curve.steps) == learning.MAX_POINTS
    assert (curve.steps[0], curve.steps[-1]) == (1, 99_999)
    np.testing.assert_array_equal(curve.steps, curve.values)


NOTHING = {"rankings": None, "curves": None, "selection": None, "explained": ()}
SECTIONS = {"results", "data", "configuration", "cost"}
OPTIONAL = {"classes", "confusion", "learning", "anchors", "predictions"}


@pytest.mark.parametrize(("changes", "missing"), [({}, set()), (NOTHING, OPTIONAL)])
def test_sections_without_content_are_left_out(changes, missing):
    page = Page(render(gather(**world.arguments(**changes))))
    ids = [attributes["id"] for attributes in page.attributes_of("section")]
    assert [a["href"] for a in page.attributes_of("a")] == [f"#{name}" for name in ids]
    assert set(ids) == SECTIONS | OPTIONAL - missing


def test_without_test_images_the_page_has_those_of_validation():
    empty = {"zero_shot": world.head(None, (None, None, None), None)}
    numbers = world.results(
        test=empty, val={"zero_shot": world.head(2.5, (5.0, None, 0.0))}
    )
    numbers["data"] |= {"smallest_class": 0, "sentences": 0}
    method = Method("Zero-shot", "zero_shot", {"zero_shot": "Ours"})
    content = gather(**world.arguments(**NOTHING, results=numbers, method=method))
    assert (content.split, content.tiles[0].percent) == ("validation", 2.5)
    assert "Ours" in Page(render(content)).words


def test_a_page_of_many_classes_is_small():
    """Breaks if a list grows with the data set, or an empty group is drawn."""
    names = [f"Species {n} <{'x' * 500}>" for n in range(8142)]
    rankings = {"test": world.ranked(num_classes=8142, per_class=3)}
    changes = world.arguments(
        class_names=names,
        train_counts=np.full(8142, 7),
        rankings=rankings,
        selection=world.selection(names, per_class=1, num_anchors=1),
        curves=world.curves(50_000),
    )
    changes["results"]["data"]["num_classes"] = 8142
    html = render(gather(**changes))
    assert len(html.encode()) < 2e6
    assert "The 300 classes with the lowest accuracy" in Page(html).words


def test_user_text_is_text(page):
    assert not LOADED & {tag for tag, _ in page.elements}
    isolated = [data for path, data in page.texts if path[-1] == "bdi"]
    assert {*NAMES, f"Sentence 0 of {world.HOSTILE[0]}", "/home/<me>/"} <= set(isolated)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
    titles = [data for path, data in page.texts if path[-2:] == ("use", "title")]
    for name, title in zip(NAMES, titles, strict=True):
        assert title.startswith(name)


def test_the_page_loads_nothing(page):
    for tag, attributes in page.elements:
        for name in attributes.keys() & URL_ATTRIBUTES:
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    styles = "".join(data for path, data in page.texts if path[-1] == "style")
    assert "url(" not in styles and "@import" not in styles
    (policy,) = [m for m in page.attributes_of("meta") if "http-equiv" in m]
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "://" not in re.sub(r'="data:[^"]*"', "", page.html)
