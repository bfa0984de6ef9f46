"""What every page has to be, found out with the standard library's parser."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "path"}


class Page(HTMLParser):
    """Tags, attributes, words and scripts of a page; complains of tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source, self.tags, self.attributes = text, [], []
        self.words, self.headings, self.scripts = "", [], []
        self._open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"{tag} is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"{tag} is closed, but was not the last one opened")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict]:
        return [a for t, a in self.attributes if t == tag]


def sound(text: str, scripts: int = 0) -> Page:
    """The page, after everything that must hold of any."""
    page = Page(text)
    assert page.wrong == []
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a["src"].startswith("data:image/") for a in page.all("img"))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    for _, own in page.attributes:
        assert not [name for name in own if name.startswith("on")]
        for name in own.get("aria-labelledby", "").split():
            assert name in ids
        if own.get("href", "").startswith("#"):
            assert own["href"][1:] in ids
    assert not re.search(r"https?://|url\(|@import|//[a-z0-9]+\.", text)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    for before, after in zip(page.headings, page.headings[1:], strict=False):
        assert after <= before + 1, "a level of headings is left out"
    assert not {"iframe", "object", "embed", "form", "base"} & set(page.tags)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert len(page.scripts) == scripts == page.tags.count("script")
    for script in page.scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy
    assert ("script-src" in policy) == bool(scripts)
    return page
