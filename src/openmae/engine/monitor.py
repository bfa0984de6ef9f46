"""Reads the values of a window of steps from the device at once, logs them, and watches for what is
not finite.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openmae.engine.anomalies import Anomalies
from openmae.engine.log import Progress, TensorBoard, warn
from openmae.engine.runfolder import RunFolder
from openmae.errors import DataError

if TYPE_CHECKING:
    from openmae.engine.loop import Plan

_BAD_SHARE = 0.05  # of the images seen; above it the data, not an image, is the problem
_WAITING = 0.2  # of the time; above it the loader is the limit
_OWN = {"loss", "grad_norm", "skipped", "sample_loss"}
_WINDOWS, _SECONDS = 3, 20.0  # how long it must be so: the first batches of a run always wait


class Monitor:
    """Keeps what `training_step` returned until the next read, so that the device is never waited
    for in between.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunFolder,
        progress: Progress,
        board: TensorBoard | None,
        skipped: list[tuple[int, list[int]]] | None = None,
    ) -> None:
        self.plan, self.run, self.progress, self.board = plan, run, progress, board
        self.anomalies = Anomalies(plan, run, [] if skipped is None else skipped)
        self.waited = 0.0
        self._window: list[tuple[int, Mapping[str, Any], dict[str, Tensor]]] = []
        self._started = time.perf_counter()
        self._rate: float | None = None
        self._seen = 0
        self._bad: dict[str, str] = {}
        self._bad_seen = 0
        self._unread: list[list[str]] = []
        # (waited, seconds) of the windows in a row that waited; None once it was said
        self._slow: list[tuple[float, float]] | None = []

    def restart(self) -> None:
        """Begin to measure time anew, after something else than training took some."""
        self._started, self.waited = time.perf_counter(), 0.0

    def add(self, step: int, batch: Mapping[str, Any], values: dict[str, Tensor]) -> None:
        """Remember a step; nothing is read from the device."""
        told = {"path": batch.get("path", []), "id": batch.get("id", [])}
        self._window.append((step, told, values))
        self._unread += [list(told) for told in batch.get("bad", ())]

    def _bad_images(self, images: int) -> None:
        """Count and name what could not be read since the last time, on any rank.

        Raises:
            DataError: on every rank, when it is too large a share.
        """
        told, self._unread = self.plan.world.gather(self._unread), []
        self._seen += images
        for path, reason in (one for rank in told for one in rank):
            self._bad_seen += 1
            if path in self._bad:
                continue
            self._bad[path] = reason
            self.run.append("bad_files.jsonl", {"path": path, "reason": reason})
            if len(self._bad) == 1:
                warn(
                    f"{path}: {reason}. Replaced by another image; all such files: bad_files.jsonl"
                    " in the run"
                )
        if self._seen >= 1000 and self._bad_seen > _BAD_SHARE * self._seen:
            raise DataError(
                f"{self._bad_seen} of {self._seen} images could not be read (first"
                f" {next(iter(self._bad))}: {next(iter(self._bad.values()))}). See bad_files.jsonl"
                f" in {self.run.path}"
            )

    def read(self, step: int) -> None:
        """Read the window, log a row, and end the run when too many steps in a row were skipped."""
        if not self._window:
            return
        read = torch.stack(
            [torch.stack([v["loss"], v["grad_norm"], v["skipped"]]) for _, _, v in self._window]
        )
        rows: list[list[float]] = read.tolist()
        more = self._further(read[:, 2] == 0)
        elapsed = max(time.perf_counter() - self._started, 1e-9)  # a clock may stand still
        images = len(rows) * self.plan.global_batch
        self._bad_images(images)
        finite = [r for r in rows if not r[2]]
        count = max(len(finite), 1)
        row = {
            "step": step,
            "images": step * self.plan.global_batch,
            "epoch": step * self.plan.global_batch / self.plan.epoch_images,
            "loss": sum(r[0] for r in finite) / count if finite else None,
            "grad_norm": sum(r[1] for r in finite) / count if finite else None,
            "lr": self.plan.schedule(step - 1),
            **({"weight_decay": self.plan.decay(step - 1)} if self.plan.decay else {}),
            "skipped": len(rows) - len(finite),
            "images_per_s": images / elapsed,
            "data_share": min(self.waited / elapsed, 1.0),
            "bad_images": self._bad_seen,
        }
        self.log(row | more)
        self._waiting(self.waited, elapsed)
        rate = elapsed / len(rows)
        self._rate = rate if self._rate is None else 0.9 * self._rate + 0.1 * rate
        self.progress.show(row, self._rate * (self.plan.total - step))
        window, self._window = self._window, []
        self.restart()
        for (at, told, values), (loss, _, skipped) in zip(window, rows, strict=True):
            if skipped:
                self.anomalies.skipped(at, told, values["sample_loss"], loss)
            else:
                self.anomalies.finite(at, told, loss)

    def _further(self, good: Tensor) -> dict[str, float]:
        """The mean over the steps that counted, and over ranks, of what the method told besides."""
        names = sorted(self._window[0][2].keys() - _OWN)
        if not names:
            return {}
        told = torch.stack([torch.stack([v[n] for n in names]) for _, _, v in self._window])
        total = torch.where(good[:, None], told, 0.0).sum(0) / good.sum().clamp(min=1)
        return dict(zip(names, self.plan.world.mean(total).tolist(), strict=True))

    def _waiting(self, waited: float, elapsed: float) -> None:
        """Name the loader as the bottleneck, once in a run, after windows that waited for it."""
        if self._slow is None:
            return
        self._slow = [*self._slow, (waited, elapsed)] if waited > _WAITING * elapsed else []
        total = sum(seconds for _, seconds in self._slow)
        if len(self._slow) < _WINDOWS or total < _SECONDS:
            return
        share = sum(seconds for seconds, _ in self._slow) / total
        advice = f"; {self.plan.advice}" if self.plan.advice else ""
        warn(f"the loader is the limit: {share:.0%} of the time waits for data{advice}")
        self._slow = None

    def log(self, row: Mapping[str, Any]) -> None:
        """Write a row of metrics."""
        self.run.append("metrics.jsonl", row)
        if self.board:
            self.board.write(row)
