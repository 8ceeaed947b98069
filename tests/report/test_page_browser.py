"""The report in a real browser: both colour schemes, a desk and a phone.

Where no browser is on the PATH, conftest.py leaves this file out.
"""

import os

import pytest
from playwright.sync_api import sync_playwright

from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.gather import gather
from vl_ltr_jax.report.page.render import render
from worlds.browser import find_browser
from worlds.report_world import HOSTILE, arguments

SIZES = {"desk": (1280, 800), "phone": (390, 844), "narrow": (360, 740)}
# Luminances as the WCAG has them; the first background that is not transparent counts.
CONTRASTS = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const f = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const texts = document.querySelectorAll("h1, h2, h3, p, bdi, td, th, .tag, summary, "
    + "a, .legend li, .number, .chosen, dt, dd, li");
  const low = {};
  for (const e of texts) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility()) continue;
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low[`${e.tagName}.${e.className}`] = ratio;
  }
  return low;
}"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(gather(**arguments())), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    # A browser refuses to be root's, unless it gives up its sandbox.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=options)
        yield browser
        browser.close()


@pytest.fixture(
    scope="module",
    params=[(scheme, size) for scheme in ("light", "dark") for size in SIZES],
    ids=lambda look: "-".join(look),
)
def opened(request, browser, file):
    """The page, with what it asked for and what it complained of."""
    scheme, size = request.param
    width, height = SIZES[size]
    page = browser.new_page(
        color_scheme=scheme, viewport={"width": width, "height": height}
    )
    asked, complaints = [], []
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri(), wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    yield page, asked, complaints, scheme
    page.close()


def test_it_asks_for_nothing_and_complains_of_nothing(opened, file):
    page, asked, complaints, _ = opened
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert not complaints
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")


def test_names_of_others_are_words_and_nothing_else(opened):
    page, *_ = opened
    words = page.inner_text("main")
    for name in HOSTILE:
        assert text.name(name) in words
    assert page.evaluate("window.hacked") is None
    assert page.locator("script, iframe, object, [onerror]").count() == 0
    # What follows a name that runs the other way stays where it is.
    assert page.evaluate("getComputedStyle(document.body).direction") == "ltr"


def test_the_page_never_scrolls_sideways(opened):
    page, *_ = opened
    wide, room, outside = page.evaluate(
        """() => [
          document.documentElement.scrollWidth, document.documentElement.clientWidth,
          [...document.querySelectorAll("main *, header *")].filter(e =>
            !e.closest(".scroll, figure svg")
            && e.getBoundingClientRect().right > innerWidth + 1
          ).map(e => e.outerHTML.slice(0, 80)),
        ]"""
    )
    assert wide <= room
    assert not outside


def test_nothing_lies_over_the_title(opened):
    page, *_ = opened
    assert page.evaluate(
        """() => {
          const m = document.querySelector(".motif").getBoundingClientRect();
          return [...document.querySelectorAll("h1 bdi, .facts bdi")].flatMap(
            e => [...e.getClientRects()]).every(r => r.right <= m.left
            || r.bottom <= m.top || r.top >= m.bottom);
        }"""
    )


def test_text_stands_out_from_what_is_behind_it(opened):
    page, _, _, scheme = opened
    assert page.evaluate(CONTRASTS) == {}
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, paper.strip("rgb()").split(","))) / 3
    assert lightness < 60 if scheme == "dark" else lightness > 200


def test_figures_follow_the_colour_scheme(opened):
    page, _, _, scheme = opened
    inks = page.evaluate(
        """() => [...document.querySelectorAll("figure svg[role] text")].map(
          e => getComputedStyle(e).fill)"""
    )
    assert inks
    for ink in inks:
        lightness = sum(map(int, ink.strip("rgb()").split(","))) / 3
        assert lightness > 120 if scheme == "dark" else lightness < 120
