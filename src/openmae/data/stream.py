"""Batches made ahead by processes, whose loss is no loss of a run: the batches they owed are made
again.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openmae.errors import DataError, MemoryLimitError, StorageError

Batch = dict[str, Any]
_APART = 100  # batches between two losses that have nothing to do with each other
_LOST = ("DataLoader worker (pid", "unable to allocate shared memory", "unable to write to file")


class Stream:
    """The batches of some numbers, in order; the same for any number of processes.

    Raises, from `next`:
        MemoryLimitError: processes were lost twice in a short time, most often for memory or shared
            memory. Once is made good: the same batches come from new processes.
        DataError, StorageError: as the batches themselves.
    """

    def __init__(
        self, batches: Dataset[Batch], numbers: Sequence[int], workers: int, pin: bool
    ) -> None:
        self._batches, self._numbers, self._workers, self._pin = batches, numbers, workers, pin
        self._died = False
        self._made = self._retried()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._made)

    def close(self) -> None:
        """End the processes; else that happens when the stream is forgotten."""
        self._made.close()

    def reading(self, number: int) -> str | None:
        """The path of the image that is read for a batch; None where nothing is known."""
        reading = getattr(self._batches, "reading", None)
        row = None if reading is None else reading.row(number)
        return None if row is None else str(self._batches.source.path(row))  # type: ignore[attr-defined]

    def _retried(self) -> Any:
        done, lost_at = 0, -_APART
        while True:
            try:
                for batch in self._once(self._numbers[done:]):
                    done += 1
                    yield batch
                return
            except (RuntimeError, MemoryError, EOFError, OSError) as error:
                if not self._lost(error):
                    raise
                if not self._workers or done - lost_at < _APART:
                    raise MemoryLimitError(_too_little(self._workers)) from error
                lost_at = done

    def _lost(self, error: Exception) -> bool:
        """Whether a process died, or could get no memory."""
        if isinstance(error, MemoryError) or any(words in str(error) for words in _LOST):
            return True
        if isinstance(error, RuntimeError) or "in DataLoader worker process" in str(error):
            return False  # the batch itself
        return self._died  # while it handed over a batch

    def _once(self, numbers: Sequence[int]) -> Iterator[Batch]:
        workers = self._workers
        made: DataLoader[Batch] = DataLoader(
            _Shared(self._batches) if workers else self._batches,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            pin_memory=self._pin,
            worker_init_fn=quiet_worker if workers else None,
            multiprocessing_context=(
                ("fork" if sys.platform == "linux" else "spawn") if workers else None
            ),
        )
        with _no_raise_from_a_signal():
            stream = iter(made)
        end = partial(_end, stream)
        atexit.register(end)  # an error may leave it alive until the interpreter ends
        try:
            yield from stream
        except (DataError, StorageError) as error:  # from a process, wrapped in its traceback
            kind = type(error)
            text = str(error).strip().splitlines()[-1].split(f"{kind.__name__}: ", 1)[-1]
            raise kind(text) from None
        finally:
            self._died = _one_died(stream)
            end()
            atexit.unregister(end)


class _Shared(Dataset[Batch]):
    """Puts the tensors of a batch into shared memory where the batch is made. An error of that,
    such as a full /dev/shm, is then an error of the batch; in the thread that sends it, the batch
    would be lost and waited for without end.
    """

    def __init__(self, batches: Dataset[Batch]) -> None:
        self._batches = batches

    def __getitem__(self, number: int) -> Batch:
        try:
            batch = self._batches[number]
            for value in batch.values():
                if isinstance(value, Tensor):
                    value.share_memory_()
            return batch
        except MemoryError:
            os._exit(1)  # there may be too little memory even to say so


def loader(
    batches: Dataset[Batch], numbers: Sequence[int], workers: int, pin: bool = False
) -> Stream:
    """Iterate over `batches[n]` for the numbers, made ahead by `workers` processes."""
    return Stream(batches, numbers, workers, pin)


def _too_little(workers: int) -> str:
    if not workers:
        return "Out of memory while images were read. Give a smaller --batch-size"
    measured = ""
    with contextlib.suppress(OSError):
        found = os.statvfs("/dev/shm")
        size, free = found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail
        measured = f"; /dev/shm has {_size(size)}, {_size(free)} free"
    return (
        f"A loader process was killed twice (most often memory, or a small /dev/shm{measured}). "
        "In Docker: --shm-size 8g. Or --workers 0"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@contextlib.contextmanager
def _no_raise_from_a_signal() -> Iterator[None]:
    """torch raises the loss of a process wherever the main thread happens to be, in the middle of a
    step too. Without its handler the loss is found when the next batch is asked for.
    """
    before = None
    with contextlib.suppress(ValueError):  # only the main thread has handlers
        before = signal.getsignal(signal.SIGCHLD)
    yield
    with contextlib.suppress(ValueError, TypeError):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _one_died(stream: Any) -> bool:
    """Whether a process is gone; it may be about to go."""
    workers, until = getattr(stream, "_workers", []), time.monotonic() + 1.0
    failing = isinstance(sys.exc_info()[1], EOFError | OSError)
    while failing and workers and time.monotonic() < until:
        if not all(worker.is_alive() for worker in workers):
            return True
        time.sleep(0.01)
    return False


def _end(stream: Any) -> None:
    """Stop the processes. They ignore SIGTERM, so Python's own end would wait for them for ever."""
    workers = getattr(stream, "_workers", [])
    getattr(stream, "_shutdown_workers", lambda: None)()
    for worker in workers:
        worker.kill()


def quiet_worker(_: int) -> None:
    """A stop signal to the whole group concerns the main process; a worker dies with its parent,
    and when the thread that sends its batches fails: what that had would be waited for for ever.
    """
    Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))  # type: ignore[attr-defined]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans
