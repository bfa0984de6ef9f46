"""The page itself: one file, light, nothing from outside, only its own script; and the file of
--static.
"""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re

import pytest

from openmae.cli import main
from openmae.report.explorer import Ask
from openmae.report.explorerpage import policy, served_page, static_page


class Parts(html.parser.HTMLParser):
    """Tags with attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag if tag in ("script", "style") else ""

    def handle_data(self, data):
        if self._open:
            self.inside.append((self._open, data))

    def handle_endtag(self, tag):
        self._open = ""


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.fixture(scope="module")
def static(explore) -> str:
    return static_page(explore(), 2, seeds=(0, 1), ratios=(0.5,))


@pytest.mark.parametrize("which", ["served", "static"])
def test_nothing_from_outside_and_no_script_but_its_own(which, static):
    page = served_page() if which == "served" else static
    parts = Parts(page)
    told = policy(page)
    scripts = [text for tag, text in parts.inside if tag == "script"]
    (style,) = [text for tag, text in parts.inside if tag == "style"]
    assert len(scripts) == 2  # data, and the code
    assert digest(scripts[1]) in told
    assert digest(style) in told
    assert "unsafe" not in told
    assert "default-src 'none'" in told
    for tag, attributes in parts.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "style" not in attributes
        for name in ("src", "href", "action"):
            assert not re.match(r"\w+://|//", attributes.get(name) or ""), tag
    code = scripts[1] + style
    assert not re.search(r"https?://|@import|innerHTML|insertAdjacent|document\.write", code)
    assert not re.search(r"\beval\(|new Function|setTimeout\(['\"]", code)


def test_the_page_is_light():
    assert len(served_page().encode()) < 60_000  # 300 KB are allowed


def test_every_control_has_a_label():
    parts = Parts(served_page())
    labelled = {a.get("for") for tag, a in parts.tags if tag == "label"}
    page = served_page()
    for tag, attributes in parts.tags:
        if tag in ("input", "select") and attributes.get("type") != "checkbox":
            assert attributes["id"] in labelled
    assert 'role="status"' in page
    assert 'role="alert"' in page
    assert '<html lang="en">' in page


def test_the_static_file_holds_the_answers_of_the_explorer(static, explore):
    data = json.loads(Parts(static).inside[1][1])
    assert list(data["ratios"]) == ["random", "block", "grid"]
    assert data["ratios"]["random"] == [0.5, 0.75]
    assert [image["name"] for image in data["images"]] == ["picture 0.png", "picture 1.png"]
    explorer = explore()
    for number, image in enumerate(data["images"]):
        assert len(image["answers"]) == (2 + 2 + 1) * 2 * 2
        for key, answer in image["answers"].items():
            mask, ratio, seed, cheat = key.split("|")
            ask = Ask(number, mask, float(ratio), int(seed), cheat_scale=cheat == "1")
            found = explorer.reconstruct(ask)
            for name in ("mse", "mean_fill_mse", "hidden", "command", "leaks", "output", "error"):
                assert answer[name] == found[name]


def test_names_cannot_leave_their_place_in_the_file(explore, monkeypatch):
    explorer = explore()
    evil = "</script><script>alert(1)</script><!--.png"
    monkeypatch.setattr(explorer.source, "path", lambda index: evil)
    page = static_page(explorer, 1, seeds=(0,), ratios=())
    assert evil not in page
    assert "<script>alert" not in page
    assert not set("<>&") & set(Parts(page).inside[1][1])
    assert json.loads(Parts(page).inside[1][1])["images"][0]["name"] == evil


def test_the_command_writes_the_file(demo_run, pictures, tmp_path, capsys):
    out = tmp_path / "out.html"
    words = ["demo", demo_run, *sorted(pictures.iterdir()), "--static", out, "--max-images", 1]
    assert main([str(w) for w in [*words, "--json"]]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"n": 1, "bytes": out.stat().st_size}
    assert "Reconstruction explorer" in out.read_text(encoding="utf-8")
