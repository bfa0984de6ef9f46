"""The explorer's page: served, or as one file with all its answers inside."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from openmae.errors import UsageError
from openmae.randomness import Rand
from openmae.report.explorer import Ask, Explorer
from openmae.report.explorerpictures import compact
from openmae.report.hiding import hide
from openmae.report.pagestyle import STYLE

_SCRIPTS = ("explorerdraw.js", "explorer.js", "explorerstart.js")
_RATIOS = (0.5, 0.75, 0.9)
_BLOCKS = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)  # those with attributes are data
_STYLE = "default-src 'none'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'"


def served_page() -> str:
    """The page that asks a server."""
    return _page("null", "connect-src 'self'")


def policy(page: str) -> str:
    """The Content-Security-Policy of a page, for a header: what a meta element says, and that no
    other site may show it within its own.
    """
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert found is not None
    return f"{found[1]}; frame-ancestors 'none'"


def static_page(
    explorer: Explorer,
    count: int,
    seeds: Sequence[int] = (0, 1, 2),
    ratios: Iterable[float] = _RATIOS,
    progress: Callable[[str], None] = lambda _: None,
) -> str:
    """A page that needs no server: the first `count` samples under some masks, ratios and seeds."""
    kinds = _kinds(explorer, ratios)
    cheats = (False, True) if explorer.about()["normalised"] else (False,)
    images = []
    for index in range(count):
        images.append(_answers(explorer, index, kinds, seeds, cheats))
        progress(images[-1]["name"])
    about = explorer.about() | {"steps": [], "neighbours": 0, "samples": count}
    if explorer.method.mask_ratio not in next(iter(kinds.values())):
        about["ratio"] = next(iter(kinds.values()))[0]
    data = {"about": about, "ratios": kinds, "seeds": list(seeds), "images": images}
    return _page(_inside(json.dumps(data, allow_nan=False)), "connect-src 'none'")


def _page(data: str, more: str) -> str:
    read = importlib.resources.files("openmae.report").joinpath
    script = "".join(read(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = STYLE + read("explorer.css").read_text(encoding="utf-8")
    page = read("explorer.html").read_text(encoding="utf-8")
    csp = f"{_STYLE}; style-src {_hash(style)}; script-src {_hash(script)}; {more}"
    for name, words in (("policy", csp), ("style", style), ("script", script), ("data", data)):
        page = page.replace(f"@{name}@", words, 1)
    return page


def _hash(words: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()}'"


def _inside(text: str) -> str:
    """JSON that cannot end the element that it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _kinds(explorer: Explorer, ratios: Iterable[float]) -> dict[str, list[float]]:
    """The ratios of each mask that fit the model's grid."""
    about, found = explorer.about(), dict[str, list[float]]()
    for mask in about["masks"]:
        wanted = about["grid_ratios"] if mask == "grid" else [*ratios, explorer.method.mask_ratio]
        fit = sorted({r for r in wanted if _fits(explorer, mask, r)})
        found |= {mask: fit} if fit else {}
    if not found:
        raise UsageError("no mask fits this model")
    return found


def _fits(explorer: Explorer, mask: str, ratio: float) -> bool:
    try:
        hide(explorer.method, Rand(0, 0, 0.0, 0, 1), explorer.own(mask), ratio)
    except UsageError:
        return False
    return True


def _answers(
    explorer: Explorer,
    index: int,
    kinds: dict[str, list[float]],
    seeds: Sequence[int],
    cheats: Sequence[bool],
) -> dict[str, Any]:
    """One image with all its answers; the original stands there once."""
    answers: dict[str, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for mask, ratios in kinds.items():
        for ratio, seed, cheat in product(ratios, seeds, cheats):
            found = explorer.reconstruct(Ask(index, mask, ratio, seed, cheat_scale=cheat))
            whole = {k: found.pop(k) for k in ("name", "original", "title")}
            small = {k: compact(found[k]) for k in ("output", "error")}
            answers[f"{mask}|{ratio:.15g}|{seed}|{int(cheat)}"] = found | small
    return {**whole, "original": compact(whole["original"]), "answers": answers}
