"""How values look where Python shows them: lines of text, and a small table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping


def shown(value: object) -> str:
    """A value in a few characters: numbers with at most six digits, what cannot be seen spelt
    out.
    """
    plain = f"{value:.6g}" if isinstance(value, float) else str(value)
    plain = plain.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def lines(values: Mapping[str, object]) -> list[str]:
    """A line for each value, in columns."""
    width = max((len(shown(name)) for name in values), default=0)
    return [f"  {shown(name):<{width}}  {shown(value)}" for name, value in values.items()]


def escaped(value: object) -> str:
    """A value within HTML, also within an attribute."""
    return html.escape(shown(value), quote=True)


def table(values: Mapping[str, object], caption: str) -> str:
    """An HTML table of two columns; every word is escaped."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escaped(name)}</th>'
        f'<td style="text-align:right">{escaped(value)}</td></tr>'
        for name, value in values.items()
    )
    head = f'<caption style="text-align:left">{escaped(caption)}</caption>'
    return f"<table>{head}<tbody>{rows}</tbody></table>"
