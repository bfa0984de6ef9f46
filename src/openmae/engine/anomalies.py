"""Steps that are not as they should be: without a finite loss or gradient, or with a spike.

A skipped step changes nothing, so a few of them are harmless. Too many end the run, or send it back
(`tasks.rollback`). All that is decided here depends on values that are equal on all ranks.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openmae.engine.log import warn
from openmae.engine.runfolder import RunFolder
from openmae.errors import DivergedError

if TYPE_CHECKING:
    from openmae.engine.loop import Plan

WINDOW, SHARE = 1000, 0.01  # skipped steps of the last ones that are too many
_LOSSES, _FEWEST = 200, 50  # what a spike is measured against, and the least that tells something
_SIGMAS, _TIMES = 5.0, 2.0
_TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


class TooManySkipsError(DivergedError):
    """Too many steps were skipped, the last ones from step `begin` on; `samples` are the ids of
    those whose own loss was not finite.
    """

    def __init__(self, text: str, begin: int, samples: list[int]) -> None:
        super().__init__(text)
        self.begin, self.samples = begin, samples


class Anomalies:
    """Counts and names what is not as it should be.

    Args:
        plan, run: of the run.
        log: (step, ids of samples to blame) of the steps skipped of late, which this adds to; it is
            saved in checkpoints, so that a run that goes on counts on.
    """

    def __init__(self, plan: Plan, run: RunFolder, log: list[tuple[int, list[int]]]) -> None:
        self.plan, self.run, self.log = plan, run, log
        self.in_row = 0  # steps without a finite loss up to now
        self._losses: deque[float] = deque(maxlen=_LOSSES)
        self._told_spike = False
        if log:
            self.in_row = self._trailing(log[-1][0])

    def finite(self, step: int, told: Mapping[str, Any], loss: float) -> None:
        """A step with a finite loss; a spike of it is only reported."""
        self.in_row = 0
        spike = False
        if len(self._losses) >= _FEWEST:
            middle = statistics.median(self._losses)
            if loss > _TIMES * middle:
                sigma = _TO_SIGMA * statistics.median(abs(x - middle) for x in self._losses)
                spike = loss > middle + _SIGMAS * sigma
        self._losses.append(loss)
        if not spike:
            return
        row = {"step": step, "what": "Spike", "loss": loss, "median": middle}
        self.run.append("anomalies.jsonl", {**row, "batch": self._everywhere(told["path"])})
        if not self._told_spike:
            warn(
                f"loss {loss:.4g} at step {step}, the median before is {middle:.4g}: this spike and"
                " further ones are in anomalies.jsonl"
            )
            self._told_spike = True

    def skipped(self, step: int, told: Mapping[str, Any], sample_loss: Tensor, loss: float) -> None:
        """A step that changed nothing.

        Raises:
            TooManySkipsError: that is one too many.
        """
        finite = torch.isfinite(sample_loss).tolist()
        paths = [p for p, sound in zip(told["path"], finite, strict=False) if not sound]
        ids = [int(i) for i, sound in zip(told["id"], finite, strict=False) if not sound]
        guilty, batch = self._everywhere(paths), self._everywhere(told["path"])
        blamed = sorted(set(self._everywhere(ids)))
        if 2 * len(guilty) > len(batch):
            blamed = []  # most of a batch: it is the weights
        self._keep(step, blamed)
        what = "Loss" if guilty or not math.isfinite(loss) else "Gradient"
        self.run.append(
            "anomalies.jsonl", {"step": step, "what": what, "samples": guilty, "batch": batch}
        )
        named = ", ".join(guilty[:3]) or f"none alone; the batch begins with {', '.join(batch[:3])}"
        limit = self.plan.max_skips
        warn(
            f"{what} not finite at step {step} on {named}. Step skipped ({self.in_row} of {limit})"
        )
        most = max(limit, round(SHARE * WINDOW))
        if self.in_row >= limit:
            self._end(f"{limit} steps in a row without a finite loss, up to step {step}", step)
        if sum(at > step - WINDOW for at, _ in self.log) >= most:
            text = f"{most} of the last {WINDOW:,} steps without a finite loss, up to step {step}"
            self._end(text, step)

    def _everywhere(self, values: list[Any]) -> list[Any]:
        """Those of all ranks, in their order; all ranks skip alike, so all come here."""
        world = self.plan.world
        told = [list(values)] if world.size == 1 else world.gather(list(values))
        return [value for part in told for value in part]

    def _keep(self, step: int, blamed: list[int]) -> None:
        self.log.append((step, blamed))
        oldest = step - max(WINDOW, self.plan.max_skips)
        while self.log[0][0] <= oldest:
            del self.log[0]
        self.in_row = self._trailing(step)

    def _trailing(self, step: int) -> int:
        """Skipped steps in a row, the last one being `step`."""
        count = 0
        for at, _ in reversed(self.log):
            if at != step - count:
                break
            count += 1
        return count

    def _end(self, text: str, step: int) -> None:
        rate = self.plan.schedule.peak * 128 / self.plan.global_batch
        raise TooManySkipsError(
            f"{text}; the weights are the last finite ones, and saved.\nLikely: a learning rate too"
            f" high (try --lr {rate:.2g} --allow-change lr), no warm-up, no --clip 1.0"
            " (--allow-change\nclip), or broken images: see anomalies.jsonl in"
            f" {self.run.path}",
            step - self.in_row + 1,
            sorted({i for _, blamed in self.log for i in blamed}),
        )
