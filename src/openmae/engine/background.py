"""Checkpoints that are written while training goes on: a copy of the tensors, and a thread.

The copy is in memory of the CPU, taken at the step; what the thread writes is no other file than
the one that training would have waited for. One save is pending at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Named = list[tuple[str, Tensor]]


class Snapshot:
    """Copies of the tensors of a step. Their memory is used again by the next one, so the copies of
    a step must not be needed any more when another is taken.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}
        self._pinned = True

    @property
    def holds(self) -> bool:
        """Whether its memory was taken already."""
        return bool(self._kept)

    def take(self, files: Mapping[str, Iterable[tuple[str, Tensor]]]) -> dict[str, Named]:
        """The same names with tensors of their own. Copies from a GPU are only begun: `ready` waits
        for them.
        """
        return {
            file: [(name, self._copy((file, name), tensor.detach())) for name, tensor in named]
            for file, named in files.items()
        }

    def _copy(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        kept = self._kept.get(key)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = self._kept[key] = self._memory(tensor)
        return kept.copy_(tensor, non_blocking=tensor.is_cuda)

    def _memory(self, tensor: Tensor) -> Tensor:
        """Page-locked where that makes the copy from a GPU run beside the next step."""
        if tensor.is_cuda and self._pinned:
            try:
                return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            except RuntimeError:  # a limit on locked memory
                self._pinned = False
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    @staticmethod
    def ready(device: torch.device) -> Callable[[], None]:
        """A function that waits until the copies that were begun are whole."""
        if device.type != "cuda":
            return lambda: None
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(device))
        return done.synchronize


class Writer:
    """Runs one piece of work at a time in a thread; keeps the error that it ended with."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step = 0

    def start(self, step: int, work: Callable[[], None]) -> None:
        """Begin; the work before must have been asked for with `ended` or `wait`."""
        assert self._thread is None

        def body() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._step, self._error = step, None
        self._thread = threading.Thread(target=body, name="openmae-save", daemon=True)
        self._thread.start()

    def ended(self) -> tuple[int, BaseException | None] | None:
        """(step, its error if any) of work that ended since it was last asked, else None."""
        if self._thread is None or self._thread.is_alive():
            return None
        return self.wait()

    def wait(self) -> tuple[int, BaseException | None] | None:
        """The same, after the end of work that is still going on."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread, error = None, self._error
        return self._step, error
