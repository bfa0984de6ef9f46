"""Faults that are put in, each of which must fire: a test whose fault never came proves nothing."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Injector:
    """Does something when the training step of a number begins.

    As a context it fails the test if one of its faults never fired.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        from openmae.engine import loop

        self.planned: dict[int, Callable[[], None]] = {}
        self.fired: list[int] = []
        real = loop.training_step

        def step(state: Any, batch: Any, plan: Any) -> Any:
            act = self.planned.get(state.step)
            if act is not None:
                self.fired.append(state.step)
                act()
            return real(state, batch, plan)

        patch.setattr(loop, "training_step", step)

    def at(self, step: int, act: Callable[[], None]) -> None:
        self.planned[step] = act

    def check(self) -> None:
        never = sorted(set(self.planned) - set(self.fired))
        assert not never, f"the faults of steps {never} never fired"


class FaultyFile:
    """Writes to files that `broken` names fail with an error of the disk, once `after` bytes of
    them were written; `times` of such writes fail, all by default.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        broken: Callable[[Path], bool],
        number: int,
        after: int = 0,
        times: int = 10**9,
    ) -> None:
        self.broken, self.number, self.after, self.times = broken, number, after, times
        self.fired = 0
        self._open = io.open
        patch.setattr(io, "open", self._opened)

    def _opened(self, path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        file = self._open(path, mode, *more, **named)
        bad = isinstance(path, (str, Path)) and set(mode) & set("wxa") and self.broken(Path(path))
        return _Failing(file, self) if bad else file


class _Failing:
    def __init__(self, file: Any, fault: FaultyFile) -> None:
        self.file, self.fault, self.written = file, fault, 0

    def write(self, data: Any) -> int:
        size, fault = len(data), self.fault
        if self.written + size > fault.after and fault.fired < fault.times:
            self.file.write(data[: max(fault.after - self.written, 0)])
            self.file.flush()
            fault.fired += 1
            raise OSError(fault.number, os.strerror(fault.number))
        self.written += size
        return int(self.file.write(data))

    def __enter__(self) -> _Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class PowerLoss:
    """What a disk holds when the power goes: of a file what was fsynced, of a folder the names that
    were there at its last fsync ("lazy"), or all names at once ("eager"). A shim over os.fsync
    records both.
    """

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.root, self.calls = root, 0
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.stop_at = -1
        for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
            self._note(folder)
        for file in (p for p in root.rglob("*") if p.is_file()):
            self._note(file)
        self._real = os.fsync
        patch.setattr(os, "fsync", self._fsync)
        for owner, name in ((os, "replace"), (os, "mkdir"), (os, "unlink"), (os, "rmdir")):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _note(self, path: Path) -> None:
        number = path.stat().st_ino
        if path.is_dir():
            self.names[number] = {p.name: p.stat().st_ino for p in path.iterdir()}
        else:
            self.contents[number] = path.read_bytes()

    def _fsync(self, handle: int) -> None:
        self._tick()
        self._real(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if self.root in (path, *path.parents):
            self._note(path)

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self._tick()
            return real(*args, **named)

        return call

    def _tick(self) -> None:
        self.calls += 1
        if self.calls == self.stop_at or (0 < self.stop_at < self.calls):
            raise Dark

    def restore(self, to: Path, eager: bool) -> None:
        """The folder as it is found when the power is back."""
        self._copy(self.root, self.root.stat().st_ino, to, eager, _tree(self.root))

    def _copy(self, now: Path, number: int, to: Path, eager: bool, alive: dict[int, Path]) -> None:
        to.mkdir(parents=True)
        there = {p.name: p.stat().st_ino for p in now.iterdir()} if now.is_dir() else {}
        names = {**self.names.get(number, {}), **there} if eager else self.names.get(number, {})
        for name, inside in names.items():
            path = alive.get(inside, now / name)
            if inside in self.names or path.is_dir():
                self._copy(path, inside, to / name, eager, alive)
            else:
                (to / name).write_bytes(self.contents.get(inside, b""))


class Dark(BaseException):
    """The power is gone: nothing has an effect any more."""


def _tree(root: Path) -> dict[int, Path]:
    return {p.stat().st_ino: p for p in root.rglob("*")}


@contextmanager
def injected(patch: pytest.MonkeyPatch) -> Iterator[Injector]:
    """An injector whose faults have all fired at the end."""
    made = Injector(patch)
    yield made
    made.check()


DISK_ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.EIO]
