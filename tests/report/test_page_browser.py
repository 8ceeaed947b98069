"""The report in a real browser: both colour schemes, desk and phone.

conftest.py skips this file if no browser is on the PATH.
"""

import os

import pytest
from playwright.sync_api import sync_playwright

from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.gather import gather
from vl_ltr_jax.report.page.render import render
from worlds.browser import find_browser
from worlds.report_world import HOSTILE, arguments

# WCAG's luminances; the first opaque background counts.
CONTRASTS = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const f = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b);
  };
  const paper = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const low = {};
  for (const e of document.querySelectorAll("header *, main *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility()) continue;
    const {fill, color} = getComputedStyle(e), ink = e.closest("svg") ? fill : color;
    const [a, b] = [luminance(parse(ink)), luminance(paper(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low[`${e.tagName}.${e.className}`] = ratio;
  }
  return low;
}"""
OVERFLOW = """() => [
  document.documentElement.scrollWidth - document.documentElement.clientWidth,
  [...document.querySelectorAll("main *, header *")].filter(e =>
    !e.closest(".scroll, figure svg")
    && e.getBoundingClientRect().right > innerWidth + 1
  ).map(e => e.outerHTML.slice(0, 80)),
]"""


@pytest.fixture(scope="module")
def browser():
    # Chromium needs this to run as root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=options)
        yield browser
        browser.close()


@pytest.mark.parametrize("size", [(1280, 800), (360, 740)], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(browser, tmp_path, scheme, size):
    file = tmp_path / "report.html"
    file.write_text(render(gather(**arguments())), encoding="utf-8")
    width, height = size
    page = browser.new_page(
        color_scheme=scheme, viewport={"width": width, "height": height}
    )
    requests, complaints = [], []
    page.on("request", lambda sent: requests.append(sent.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri(), wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")

    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    assert not complaints
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    words = page.inner_text("main")
    assert all(text.name(name) in words for name in HOSTILE)
    assert page.evaluate("window.hacked") is None
    # A name in another direction does not turn the text after it.
    assert page.evaluate("getComputedStyle(document.body).direction") == "ltr"
    excess, outside = page.evaluate(OVERFLOW)
    assert excess <= 0 and not outside  # it never scrolls sideways
    assert page.evaluate(CONTRASTS) == {}
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, paper.strip("rgb()").split(","))) / 3
    assert lightness < 60 if scheme == "dark" else lightness > 200
    page.close()
