"""Pages in headless Chromium, by day and by night, wide and narrow."""

from __future__ import annotations

import json
import threading

import pytest
from browsers import needs_chromium, violations
from run_folders import row, run_folder

from openmae.cli import main
from openmae.report.watchserver import Live, WatchServer
from openmae.tasks.watch import Watched

sync = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
LOOKS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]

pytestmark = needs_chromium


class Tab:
    """A page, with what its console said and which addresses it asked for."""

    def __init__(self, browser, url: str, width: int = 1280, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        size = {"width": width, "height": 800}
        self.page = browser.new_page(viewport=size, color_scheme=scheme)
        self.page.on("console", lambda m: self.said.append(m.text))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.goto(url)

    def sound(self) -> None:
        """Nothing in the console, nothing from outside, nothing wider than the window."""
        page = self.page
        assert self.said == []
        assert all(u.startswith(("file:", "data:", "http://127.0.0.1:")) for u in self.asked)
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")

    def accessible(self) -> None:
        assert violations(self.page) == []


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("browser")
    runs = [run_folder(root / "a"), run_folder(root / "<b>", "failed", exit_code=6)]
    for run in runs:
        assert main(["report", str(run)]) == 0
    assert main(["report", *map(str, runs), "-o", str(root / "both.html")]) == 0
    files = {"one": runs[0] / "report.html", "both": root / "both.html"}
    return {name: f"file://{path}" for name, path in files.items()}


def test_the_check_of_accessibility_can_fail(browser):
    page = browser.new_page()
    page.set_content("<html lang='en'><title>a</title><main><h1>b</h1><img src='data:,'></main>")
    assert [line.split(":")[0] for line in violations(page)] == ["image-alt"]
    page.close()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("name", ["one", "both"])
def test_a_report_is_all_there(browser, reports, name, width, scheme):
    tab = Tab(browser, reports[name], width, scheme)
    tab.sound()
    drawn = tab.page.locator("figure svg[role=img]")
    assert drawn.count() >= 7
    for i in range(drawn.count()):
        box = drawn.nth(i).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
        inked = "e => e.querySelector('.line').getBoundingClientRect().width"
        assert drawn.nth(i).evaluate(inked) > 50
    back = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(back.replace("rgb(", "[").replace(")", "]"))) < 200) == (
        scheme == "dark"
    )
    tab.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "both"])
def test_a_report_is_accessible(browser, reports, name, scheme):
    tab = Tab(browser, reports[name], 1280, scheme)
    for summary in tab.page.locator("summary").all():
        summary.click()
    tab.accessible()
    tab.page.close()


def test_the_keyboard_reaches_everything(browser, reports):
    tab = Tab(browser, reports["one"])
    reached = set()
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        reached.add(tab.page.evaluate("document.activeElement.tagName"))
    assert {"A", "SUMMARY", "DIV"} <= reached
    tab.page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_watched_run_grows_where_the_reader_is(browser, tmp_path, width):
    run = run_folder(tmp_path / "run", "running")
    with WatchServer(Live(Watched([run], "auto"), 0.0), 0) as server:
        server.live.every = 0.2
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            tab = Tab(browser, server.url, width)
            tab.page.locator("summary").first.click()
            tab.page.evaluate("scrollTo(0, 600)")
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row(510)) + "\n")
            sync.expect(tab.page.locator("#lead")).to_contain_text("at step 510")
            assert tab.page.evaluate("scrollY") == 600
            assert tab.page.locator("details[open]").count() == 1
            assert tab.page.evaluate("document.activeElement.tagName") == "SUMMARY"
            tab.sound()
            tab.accessible()
        finally:
            server.shutdown()
            thread.join()
    sync.expect(tab.page.locator("#live")).to_contain_text("No answer")
    tab.page.close()
