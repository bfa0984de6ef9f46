"""What every page shares: escaping, sections, tables, and a frame that lets nothing in.

Names of files, classes and settings are hostile text: everything goes through `text`.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from openmae.report.pagestyle import STYLE

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
    " form-action 'none'"
)
_WRAP = ("path", "is like", "reason", "value", "images", "what")


def text(value: object) -> str:
    """Harmless in HTML, also in an attribute; what is no UTF-8 or cannot be seen is spelt out."""
    plain = str(value).encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
    return html.escape(shown, quote=True)


def section(head: str, body: str, name: str = "") -> str:
    """A part of the page, or nothing where it would be empty; `name` makes it a place to go to."""
    mark = f' id="{text(name)}"' if name else ""
    return f"<section{mark}><h2>{text(head)}</h2>{body}</section>" if body else ""


def grid(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: int = 0,
    label: str = "",
    named: bool = False,
) -> str:
    """A table whose last `numbers` columns stand on the right; cells are HTML already.

    Args:
        label: what the table is, for those who do not see it.
        named: the first cell of a row is its head, and words in the others may be broken.
    """
    words = len(heads) - numbers
    free = [h in _WRAP or (named and i > 0) for i, h in enumerate(heads)]
    marks = ["n" if i >= words else "w" if free[i] else "k" for i in range(len(heads))]
    top = "".join(
        f'<th scope="col" class="{m}">{text(h)}</th>' if h else f'<td class="{m}"></td>'
        for m, h in zip(marks, heads, strict=True)
    )
    body = []
    for row in rows:
        cells = [f'<td class="{m}">{c}</td>' for m, c in zip(marks, row, strict=True)]
        if named:
            cells[0] = f'<th scope="row" class="{marks[0]}">{row[0]}</th>'
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    return scrolled(f"<table>{head}<tbody>{''.join(body)}</tbody></table>", label)


def scrolled(body: str, label: str = "") -> str:
    """A box that scrolls; the keyboard reaches it."""
    region = f' role="region" aria-label="{text(label)}"' if label else ""
    return f'<div class="scroll" tabindex="0"{region}>{body}</div>'


def cards(found: Sequence[tuple[str, str, str]]) -> str:
    """(words, value, "" | "warn" | "bad") as a row of large numbers."""
    body = "".join(
        f'<div class="card {mark}"><b>{text(value)}</b><span>{text(words)}</span></div>'
        for words, value, mark in found
    )
    return f'<div class="cards">{body}</div>'


def more(summary: str, body: str) -> str:
    """What is shown when asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>" if body else ""


def picture(data: bytes, alt: str, kind: str = "image/png", size: str = "") -> str:
    """A picture within the page; `size` is its width and height as attributes."""
    told = base64.b64encode(data).decode()
    return f'<img alt="{text(alt)}"{size} src="data:{kind};base64,{told}">'


def frame(
    title: str, lead: str, body: str, style: str = "", script: str = "", kind: str = ""
) -> str:
    """The whole page.

    Args:
        title: plain text.
        lead: HTML below the title.
        body: HTML of the sections.
        style: further rules.
        script: the only one that may run; it may then ask the page's own server.
        kind: what page it is, before the title of the window.
    """
    policy = _POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'; connect-src 'self'"
    icon = '<link rel="icon" href="data:,">' if script else ""  # a server is asked for none
    whole = text(f"{kind}: {title}" if kind else title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">{icon}\n'
        f'<meta name="color-scheme" content="light dark"><title>{whole}</title>\n'
        f"<style>{STYLE}{style}</style></head>\n<body><main><header><h1>{text(title)}</h1>\n"
        f"{lead}</header>\n{body}\n</main>"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )
