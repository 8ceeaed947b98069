"""A browser that opens reports."""

import shutil


def find_browser() -> str | None:
    """A Chromium on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)
