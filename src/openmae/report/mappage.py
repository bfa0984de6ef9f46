"""A map of images as one page: points to zoom, to search and to look at, with small pictures.

N images. The page holds everything and asks for nothing; its size is bounded, and it says what was
left out for that.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.report.html import frame, section, text

MOST_POINTS = 20_000
MOST_PICTURES = 2_000
PICTURE_BYTES = 5_000_000  # of all small pictures together, before they become text
SIDE = 48  # pixels of a small picture's longer side
_LONG = 120  # characters of a name; its end tells more
_PLACES = 10_000  # on each axis

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8a8a8a")
"""Okabe and Ito without black and yellow, which vanish by night and by day; and gray."""


def _polygon(corners: int, turn: float, size: float) -> list[list[float]]:
    angles = [2 * math.pi * i / corners + turn for i in range(corners)]
    return [[round(size * math.cos(a), 3), round(size * math.sin(a), 3)] for a in angles]


_CROSS = [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1)]
SHAPES = (
    _polygon(16, 0, 1.0),
    _polygon(4, math.pi / 4, 1.25),
    _polygon(3, -math.pi / 2, 1.3),
    _polygon(4, 0, 1.35),
    _polygon(3, math.pi / 2, 1.3),
    [[x * 0.42, y * 0.42] for x, y in [*_CROSS, (-3, -1), (-1, -1)]],
)
"""Corners of a mark on the unit scale. Class k has colour k mod 7 and shape k mod 6, so that
neighbours differ in both, and the first 42 in one of them.
"""


def map_page(
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    names: Sequence[str],
    picture: Callable[[int], bytes | None],
    title: str,
    note: str = "",
) -> str:
    """The page of points (N, 2).

    Args:
        labels: (N,) class of each, -1 for none.
        names: of the images.
        picture: row -> the PNG of a thumbnail, of any size; None where it cannot be read.
        note: what the layout means, in plain words.
    """
    chosen = spaced(len(points), MOST_POINTS)
    shown = _pictures(chosen, picture)
    data = {
        "x": _scaled(points[chosen, 0], points[chosen]),
        "y": _scaled(-points[chosen, 1], points[chosen]),  # up is up
        "k": labels[chosen].tolist(),
        "n": [_short(names[i]) for i in chosen],
        "t": [shown.get(i, "") for i in chosen],
        "classes": [_short(name) for name in classes],
        "colours": COLOURS,
        "shapes": SHAPES,
    }
    notes = (note, _thinned(len(points), len(chosen), len(shown)))
    lead = "".join(f"<p>{text(words)}</p>" for words in notes if words)
    script = _read("mappage.js").replace("@data@", _inside(data), 1)
    body = _read("mappage.html").replace("@legend@", _legend(labels, classes), 1)
    return frame(title, lead, body, _read("mappage.css"), script, "Map")


def spaced(count: int, most: int) -> list[int]:
    """At most `most` of `count` rows, evenly spaced, in order."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def small(data: bytes) -> str:
    """A thumbnail as what stands in a page after "data:image/": the smaller of PNG and JPEG."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as found:
        image = found.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    if all(low[0] == low[1] == 0 for low in _colour_range(image)):
        image = image.convert("L")
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=82)
    kind, best = min(("png", png), ("jpeg", jpeg), key=lambda pair: pair[1].tell())
    return f"{kind};base64,{base64.b64encode(best.getvalue()).decode()}"


def _colour_range(image: Image.Image) -> list[tuple[int, int]]:
    pixels = np.asarray(image).astype(int)
    found = [pixels[..., 0] - pixels[..., i] for i in (1, 2)]
    return [(int(d.min()), int(d.max())) for d in found]


def _pictures(chosen: Sequence[int], picture: Callable[[int], bytes | None]) -> dict[int, str]:
    """Small pictures of some rows, evenly spaced, that fit into `PICTURE_BYTES` together."""
    found: dict[int, str] = {}
    for place in spaced(len(chosen), MOST_PICTURES):
        data = picture(chosen[place])
        if data is not None:
            found[chosen[place]] = small(data)
    total = sum(map(len, found.values())) * 3 / 4
    if total <= PICTURE_BYTES:
        return found
    rows = list(found)
    fewer = spaced(len(rows), int(len(rows) * PICTURE_BYTES / total))
    return {rows[i]: found[rows[i]] for i in fewer}


def _scaled(values: NDArray[np.float64], points: NDArray[np.float64]) -> list[int]:
    """Places from 0 to `_PLACES`; both axes have one scale."""
    spread = float(np.ptp(points, axis=0).max()) or 1.0
    middle = (values.max() + values.min()) / 2
    scaled = ((values - middle) / spread + 0.5) * _PLACES
    return np.rint(scaled).astype(int).tolist()


def _short(name: str) -> str:
    plain = name.encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= _LONG else f"…{plain[-_LONG + 1 :]}"


def _thinned(count: int, points: int, pictures: int) -> str:
    parts = [f"{points:,} of {count:,} images are drawn"] if points < count else []
    parts += [f"{pictures:,} of {points:,} points have a picture"] if pictures < points else []
    return f"{'; '.join(parts)}: evenly spaced, so that the file stays small." if parts else ""


def _inside(data: dict[str, Any]) -> str:
    """JSON that cannot end the script that it stands in."""
    told = json.dumps(data, separators=(",", ":"))
    return told.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name: str) -> str:
    return importlib.resources.files("openmae.report").joinpath(name).read_text(encoding="utf-8")


def mark(number: int) -> str:
    """The mark of a class as a small SVG."""
    corners = " ".join(f"{8 + 5 * x:.1f},{8 + 5 * y:.1f}" for x, y in SHAPES[number % len(SHAPES)])
    fill = COLOURS[number % len(COLOURS)]
    return (
        '<svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">'
        f'<polygon points="{corners}" fill="{fill}"/></svg>'
    )


def _legend(labels: NDArray[np.int64], classes: Sequence[str]) -> str:
    """A button for each class that hides it and shows it again."""
    if not classes:
        return ""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    items = [
        f'<li><button type="button" aria-pressed="true" data-class="{k}">{mark(k)}'
        f"<span>{text(_short(name))}</span> <b>{counts[k]:,}</b></button></li>"
        for k, name in enumerate(classes)
    ]
    words = "Press one to hide it, or to show it again."
    if len(classes) > len(COLOURS) * len(SHAPES):
        words += " There are more classes than marks: marks repeat."
    return section(
        "Classes", f'<p class="soft">{words}</p><ul class="legend">{"".join(items)}</ul>'
    )
