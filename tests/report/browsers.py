"""Headless Chromium for the tests of pages, and what axe-core says of a page's accessibility.
Skipped, saying so, without Playwright or Chromium; axe-core comes with the development packages.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: apt-get install chromium"
)


@contextmanager
def launched() -> Iterator[Any]:
    """A browser, for one module at most: asyncio cannot run where Playwright's loop does."""
    api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield made
        made.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with a page as it stands: the rule, and the first place."""
    script = resources.files("axe_playwright_python").joinpath("axe.min.js")
    session = page.context.new_cdp_session(page)  # past the page's own policy
    session.send("Runtime.evaluate", {"expression": script.read_text(encoding="utf-8")})
    words = "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html))"
    more = {"expression": words, "awaitPromise": True, "returnByValue": True}
    found: list[str] = session.send("Runtime.evaluate", more)["result"]["value"]
    session.detach()
    return found
