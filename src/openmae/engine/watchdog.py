"""Finds the rank that hangs. The others wait for it in a collective, and none of them would say
which one they wait for.

Each rank notes where it is (`Whereabouts.at`, two assignments). A thread looks at the note; when it
is old, it asks all ranks through the store, and their threads answer. The rank that is furthest
behind is the one that hangs: either it says what it does, or it does not answer at all.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from openmae.engine.distributed import World

PHASES = ("start", "data", "vote", "first", "step", "read", "measure", "save")
"""Where a rank can hang. After "end" each goes its own way, and nobody waits for another."""

_WORDS = {
    "start": "reading settings, data and weights before step {}",
    "first": "in the gradients of step {}, the first one here",
    "data": "reading the images of step {}",
    "vote": "in the vote before step {}",
    "step": "in the gradients of step {}",
    "read": "reading the values after step {}",
    "measure": "measuring after step {}",
    "save": "saving step {}",
}
_AFTER = {"read", "measure", "save"}  # a step
# Data to look at, blocks to compile; what rank 0 may have much of, while others wait for it.
_LONG = {"start", "first", "measure", "save"}
_LONGER = 24  # times the limit for those
_LOOK = 0.5  # seconds between looks
_ANSWERS = 5.0  # seconds in which the others answer
_GOODBYE = 15.0  # seconds in which the one that speaks ends
_SHORT = timedelta(seconds=2)


class Watchdog(threading.Thread):
    """A daemon thread that calls `found(text, speaks)` once when a rank hangs for `limit` seconds;
    of the ranks that still answer one speaks.
    """

    def __init__(self, world: World, limit: float, found: Callable[[str, bool], None]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.world, self.watch, self.limit, self.found = world, world.place, limit, found
        self._ended = threading.Event()
        self._answered = 0

    def __enter__(self) -> Watchdog:
        if self.world.size > 1:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self.is_alive():
            self.join(timeout=2 * _ANSWERS)

    def run(self) -> None:
        """Look, ask and answer until the run ends."""
        known: float | None = None
        with suppress(RuntimeError, ConnectionError):  # the store ends with its rank
            while not self._ended.wait(_LOOK) and self.watch.place[1] != "end":
                self._answer()
                if self._still() <= self.limit:
                    known = None
                elif (told := self._ask()) is not None and not self._ended.is_set():
                    known = known or time.monotonic()
                    # who does not speak goes on answering, until the one who does has ended all
                    if told[1] or time.monotonic() - known > _GOODBYE:
                        self.found(*told)
                        return

    def _still(self) -> float:
        return time.monotonic() - self.watch.since

    def _answer(self) -> None:
        """Say where this rank is, to everybody who asked since the last time."""
        asked = int(self.world.store.add("hang/asked", 0))
        for number in range(self._answered + 1, asked + 1):
            (step, phase), still = self.watch.place, self._still()
            told = json.dumps({"step": step, "phase": phase, "still": still})
            self.world.store.set(f"hang/{number}/{self.world.rank}", told)
        self._answered = asked

    def _ask(self) -> tuple[str, bool] | None:
        """Who hangs, in words; None while a rank is busy with something long."""
        number = int(self.world.store.add("hang/asked", 1))
        told: dict[int, dict[str, Any]] = {}
        end = time.monotonic() + _ANSWERS
        while time.monotonic() < end and len(told) < self.world.size:
            self._answer()  # others ask as well, and wait for this one
            for rank in range(self.world.size):
                key = f"hang/{number}/{rank}"
                if rank not in told and self.world.store.check([key]):
                    told[rank] = json.loads(self.world.store.get(key))
            self._ended.wait(0.1)
        return verdict(told, self.world, self.limit)


def verdict(told: dict[int, dict[str, Any]], world: World, limit: float) -> tuple[str, bool] | None:
    """Who hangs by what ranks told of themselves: (words, whether this rank is to say them), or
    None.
    """
    speaks = world.rank == min(told, default=world.rank)
    silent = sorted(set(range(world.size)) - told.keys())
    own = told.get(world.rank)
    waiting = f"rank {world.rank} waits {_where(own)}" if own else f"rank {world.rank} waits"
    if silent:
        ranks = ", ".join(map(str, silent[:8]))
        return f"rank {ranks} does not answer; {waiting}", speaks
    behind = min(told, key=lambda rank: (_order(told[rank]), -told[rank]["still"]))
    last = told[behind]
    patience = limit * (_LONGER if last["phase"] in _LONG else 1)
    if last["still"] <= patience:
        return None
    text = f"rank {behind} hangs for {last['still']:.0f} s {_where(last)}"
    if behind != world.rank and own:
        text += f"; {waiting}"
    return text, speaks


def _order(told: dict[str, Any]) -> tuple[int, int]:
    """Place in the run. After a step come its save and measurement, then the data of the next."""
    phase = told["phase"]
    after = phase in _AFTER
    return told["step"] - after, PHASES.index(phase)


def _where(told: dict[str, Any]) -> str:
    return _WORDS[told["phase"]].format(f"{told['step']:,}")
