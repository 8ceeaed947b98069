"""User text on the page stays text, and the page loads nothing."""

import re

import pytest

from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.gather import gather
from vl_ltr_jax.report.page.render import render
from worlds.page_parser import Page
from worlds.report_world import HOSTILE, arguments

KNOWN = set(
    "html head meta link title style body header main nav section article footer p ul "
    "ol li h1 h2 h3 div span bdi i b small sub a dl dt dd table caption thead tbody tr "
    "th td details summary img figure figcaption svg g defs path use text clippath "
    "rect line circle".split()
)
URL_ATTRIBUTES = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


@pytest.fixture(scope="module")
def html():
    return render(gather(**arguments()))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_user_text_is_text(page):
    assert {tag for tag, _ in page.elements} <= KNOWN
    isolated = [data for path, data in page.texts if path[-1] == "bdi"]
    names = [text.name(name) for name in HOSTILE]
    assert {*names, f"Sentence 0 of {HOSTILE[0]}", "/home/<me>/"} <= set(isolated)
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
    titles = [data for path, data in page.texts if path[-2:] == ("use", "title")]
    for name, title in zip(names, titles, strict=True):
        assert title.startswith(name)


def test_the_page_loads_nothing(html, page):
    for tag, attributes in page.elements:
        for name in attributes.keys() & URL_ATTRIBUTES:
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    styles = "".join(data for path, data in page.texts if path[-1] == "style")
    assert "url(" not in styles and "@import" not in styles
    (policy,) = [m for m in page.attributes_of("meta") if "http-equiv" in m]
    assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "://" not in re.sub(r'="data:[^"]*"', "", html)


def test_ids_are_unique_and_figures_take_the_pages_colours(html, page):
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "clip-path"):
            match = re.search(r"#([^)]+)", attributes.get(name, "") or "")
            assert not match or match[1] in ids
    figures = [a for a in page.attributes_of("svg") if a.get("role") == "img"]
    assert all(a["aria-label"] for a in figures)
    inks = " ".join(
        a["style"]
        for tag, a in page.elements
        if tag in ("path", "use", "text") and "style" in a
    )
    assert "var(--many)" in inks and "var(--ink)" in inks
    assert not re.search(r"#[0-9a-f]{6}|font-family", inks)
    assert render(gather(**arguments())) == html


def test_texts_are_shortened_and_can_be_written():
    assert text.line("a\n  b\tc", 10) == "a b c"
    assert text.line("abcdef", 5) == "abcd…"
    assert text.line("a\x00b\ud800", 9) == "a\ufffdb\ufffd"
