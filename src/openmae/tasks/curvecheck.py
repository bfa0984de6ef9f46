"""Does a loss go where it should? A word to the user while there is still time: stuck where a
constant prediction is, rising again, or far above the recipe's own run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from openmae.config.pretrain import PretrainConfig
from openmae.config.recipe import about, shipped
from openmae.engine.log import warn
from openmae.engine.loop import State
from openmae.engine.runfolder import RunFolder, read_jsonl

CONSTANT = 0.97
"""Of normalised pixels the mean of each patch scores just below 1: 0.985 was seen of runs that
learned nothing. Other targets have no such level.
"""
RISEN = 1.25  # times its lowest
ABOVE = 1.15  # times the recipe's own run, on any images
_LEAST = 200  # steps after the warm-up before anything is said
_WINDOW = 0.05  # of the run: losses are averaged over the last of it


class CurveCheck:
    """Around what measures a run on its way: looks at its losses too, and warns once of each kind
    of trouble. Only of methods that predict hidden patches: the losses of others may rise.
    """

    def __init__(
        self,
        measure: Callable[[State], Mapping[str, Any]],
        config: PretrainConfig,
        resolved: Mapping[str, Any],
        folder: RunFolder,
    ) -> None:
        self.measure, self.config, self.folder = measure, config, folder
        self.total, self.warmup = resolved["total_steps"], resolved["warmup_steps"]
        self.track = track_of(str(resolved.get("recipe")), config)
        self.told: set[str] = set()

    def __call__(self, state: State) -> Mapping[str, Any]:
        found = self.measure(state)
        if self.config.method == "mae":
            rows = [r for r in read_jsonl(self.folder.metrics) if r.get("loss") is not None]
            for kind, line in self.troubles([(r["step"], r["loss"]) for r in rows]):
                if kind not in self.told:
                    self.told.add(kind)
                    warn(line)
        return found

    def troubles(self, losses: Sequence[tuple[int, float]]) -> list[tuple[str, str]]:
        """(kind, words) of what is wrong with losses at their steps."""
        if not losses or losses[-1][0] < self.warmup + _LEAST:
            return []
        means = windows(losses, max(1, round(_WINDOW * self.total)))
        step, now = means[-1]
        found = []
        if self.config.target == "norm_pixels" and now > CONSTANT:
            found.append(("stuck", (
                f"loss {now:.3f} at step {step:,}: no better than the mean of each patch (1.0), so"
                " nothing is learned yet. Mostly the rate: try another --lr, or look at the images"
            )))  # fmt: skip
        low_step, low = min(means, key=lambda m: m[1])
        if now > RISEN * low and self.config.mask_ratio_end is None:
            found.append(("rising", (
                f"loss {now:.3f} at step {step:,} rose from {low:.3f} at step {low_step:,}: it"
                " diverges. A lower --lr, or --clip 1"
            )))  # fmt: skip
        images = step * self.config.batch_size
        own = at(self.track, images)
        if own is not None and now > ABOVE * own and not found:
            found.append(("behind", (
                f"loss {now:.3f} after {images:,} images: the recipe's own run was at {own:.3f}"
                " there. Other images are harder or easier; else look at the rate and the data"
            )))  # fmt: skip
        return found


def windows(losses: Sequence[tuple[int, float]], width: int) -> list[tuple[int, float]]:
    """(last step, mean) of the losses of every `width` steps, counted back from the last one."""
    found: dict[int, list[float]] = {}
    last = losses[-1][0]
    for step, loss in losses:
        found.setdefault((last - step) // width, []).append(loss)
    return [(last - n * width, math.fsum(found[n]) / len(found[n])) for n in sorted(found)[::-1]]


Track = Sequence[tuple[float, float]]


def track_of(recipe: str, config: PretrainConfig) -> Track:
    """(images, loss) of the recipe's own run; empty where it has none, or where the run differs in
    what its loss depends on.
    """
    if recipe not in shipped("pretrain"):
        return ()
    told = about("pretrain", recipe).get("losses", "")
    points = [word.split(":") for word in told.split()]
    plain = (config.mask_ratio, config.target, config.mask) == (0.75, "norm_pixels", "random")
    return [(float(images), float(loss)) for images, loss in points] if plain else ()


def at(track: Track, images: float) -> float | None:
    """The loss of a track after some images: linear in their logarithm, the last one later on, None
    before the first.
    """
    if not track or images < track[0][0]:
        return None
    for (a, before), (b, after) in pairwise(track):
        if images <= b:
            return before + (after - before) * math.log(images / a) / math.log(b / a)
    return track[-1][1]
