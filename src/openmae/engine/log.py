"""What a person sees while a run goes on: one line rewritten on a terminal, one plain line a minute
otherwise.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

_EVERY = 60.0  # seconds between plain lines


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def put(text: str, file: TextIO) -> None:
    """Print a line. Where nobody reads any more, or the disk of the log is full, the line is lost
    and the run goes on: nothing stays in a buffer that would fail again at the end.
    """
    try:
        file.flush()
        data = f"{text}\n".encode(file.encoding or "utf-8", "backslashreplace")
        os.write(file.fileno(), data)
    except io.UnsupportedOperation:  # a stream in memory
        print(text, file=file, flush=True)
    except OSError:
        pass


def say(head: str, text: str = "") -> None:
    """One line of the report before and after a run: a short head, then words. Of several ranks
    the first one speaks.
    """
    if _rank() == 0:
        put(f"{head:<8} {text}" if text else head, sys.stdout)


def warn(text: str, own: bool = False) -> None:
    """A notice that the run goes on after. What every rank finds alike only the first one says;
    `own` is something that this rank alone knows.
    """
    rank = _rank()
    if rank == 0 or own:
        put(f"openmae: {f'rank {rank}: ' if rank else ''}{text}", sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return (
        f"{minutes // 60} h {minutes % 60:02d}" if minutes < 2880 else f"{minutes / 1440:.1f} days"
    )


class Progress:
    """Shows rows of metrics; a context, so that the terminal is left as it was found."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._console = Console(file=sys.stdout)
        self._speaks = _rank() == 0
        self._live = (
            Live(console=self._console, transient=True, auto_refresh=False)
            if self._speaks and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
            else None
        )
        self._last = float("-inf")
        self._before: float | None = None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with contextlib.suppress(OSError):  # the terminal is gone
                self._live.stop()

    def show(self, row: Mapping[str, Any], seconds_left: float) -> None:
        """A row that the loop has read: step, epoch, loss, images_per_s, data_share."""
        line = self._line(row, seconds_left)
        if self._live:
            with contextlib.suppress(OSError):
                self._live.update(Text(line, overflow="ellipsis", no_wrap=True), refresh=True)
        elif self._speaks and (
            time.monotonic() - self._last >= _EVERY or row["step"] == self.total
        ):
            self._last = time.monotonic()
            put(line, sys.stdout)
        self._before = row["loss"]

    def _line(self, row: Mapping[str, Any], seconds_left: float) -> str:
        loss = "not finite" if row["loss"] is None else f"{row['loss']:.4f}"
        if row["loss"] is not None and self._before is not None:
            loss += f" ({row['loss'] - self._before:+.4f})"
        parts = [
            f"step {row['step']:,}/{self.total:,}",
            f"ep {row['epoch']:.1f}",
            f"loss {loss}",
            f"{row['images_per_s']:,.0f} img/s",
            f"data {row['data_share']:.0%}",
            f"left {duration(seconds_left)}",
        ]
        return "  ".join(parts)


class TensorBoard:
    """Scalars for TensorBoard, when asked for."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every number of a row, at its step."""
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()
