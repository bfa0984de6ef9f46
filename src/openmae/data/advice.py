"""How to begin with a data set: the options of `openmae pretrain` that its images ask for."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

_SIDE = 224  # pixels that a run takes by itself
_SMALL = 48  # pixels: such images have a recipe of their own
_OBLONG = 1.5
_ALIKE = 0.8  # of the images have the aspect of the middle one


def options(found: Mapping[str, Any]) -> list[str]:
    """Words such as --image-size 32; what a run would choose by itself is left out, but for the
    value range, which is better stated than looked for.
    """
    words: list[str] = []
    group = found["values"][0] if found["values"] else None
    short = found["sizes"]["short_side"]["median"]
    if short <= _SMALL:
        words += ["--recipe", "cifar10"]
    words += _size(found["sizes"])
    if group is not None:
        words += _channels(group)
    if found["value_range"] is not None:
        low, high = found["value_range"]
        words += [f"--value-range={low:.10g}:{high:.10g}"]
    return words


def command(data: str, found: Mapping[str, Any]) -> str:
    """To paste."""
    return shlex.join(["openmae", "pretrain", data, *options(found)])


def _size(sizes: Mapping[str, Any]) -> list[str]:
    width, height = sizes["width"]["median"], sizes["height"]["median"]
    oblong = max(sizes["aspect"], 1 / sizes["aspect"]) >= _OBLONG
    if oblong and sizes["same_aspect"] >= _ALIKE and min(width, height) >= 16:
        # as many pixels as a square of the usual side, in the shape of the images
        scale = min(1.0, _SIDE / math.sqrt(width * height))
        patch = _patch(min(width, height) * scale)
        tall, wide = (max(patch, int(v * scale) // patch * patch) for v in (height, width))
        return ["--image-size", str(tall), str(wide), "--patch-size", str(patch)]
    short = sizes["short_side"]["median"]
    if short >= _SIDE:
        return []
    patch = _patch(short)
    return ["--image-size", str(max(patch, short // patch * patch)), "--patch-size", str(patch)]


def _patch(side: float) -> int:
    """The largest that leaves eight a side, as far as there is one."""
    return max(p for p in (1, 2, 4, 8, 16) if p * 8 <= side or p == 1 or (p == 2 and side >= 8))


def _channels(group: Mapping[str, Any]) -> list[str]:
    """The commonest number, without channels that hold one value only."""
    count = group["channels"]
    alive = [c for c in range(count) if group["low"][c] != group["high"][c]]
    if alive and len(alive) < count and count > 1:
        return ["--bands", *(str(c + 1) for c in alive)]
    return [] if count == 3 else ["--channels", str(count)]
