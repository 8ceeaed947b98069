"""The report in a real browser: both colour schemes, desk and phone.

conftest.py skips this file if no browser is on the PATH.
"""

import os
from shutil import which

import pytest
from playwright.sync_api import sync_playwright

from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.gather import gather
from vl_ltr_jax.report.page.render import render
from worlds.report_world import HOSTILE, arguments

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    # Chromium needs this to run as root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=which("chromium"), args=options
        )
        yield browser
        browser.close()


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)])
def test_a_browser_shows_the_page(browser, tmp_path, scheme, size):
    file = tmp_path / "report.html"
    file.write_text(render(gather(**arguments())), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme, viewport=size)
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
    # It never scrolls sideways.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, paper.strip("rgb()").split(","))) / 3
    assert lightness < 60 if scheme == "dark" else lightness > 200
    page.close()
