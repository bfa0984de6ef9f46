"""The vote before each step, for every pair of states that two ranks can be in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from openmae.engine.agree import agree, same_everywhere
from openmae.engine.distributed import World
from openmae.errors import DataError, MemoryLimitError, OpenMAEError, PeerError, StorageError


class Threads(World):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, shared: dict[str, Any]) -> None:
        super().__init__(rank, len(shared["said"]))
        object.__setattr__(self, "shared", shared)

    def gather(self, value: Any) -> list[Any]:
        shared = self.shared  # type: ignore[attr-defined]
        shared["said"][self.rank] = value
        shared["barrier"].wait(10)
        told = list(shared["said"])
        shared["barrier"].wait(10)
        return told

    def vote(self, code: int) -> int:
        return max(self.gather(code))


def together(function: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    """What `function(world, *arguments[rank])` gives or raises on each rank."""
    shared = {"said": [None] * len(arguments), "barrier": Barrier(len(arguments))}

    def one(rank: int) -> Any:
        try:
            return function(Threads(rank, shared), *arguments[rank])
        except OpenMAEError as error:
            return error

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(one, range(len(arguments))))


NOTHING = (None, None, False)


def test_nobody_has_anything():
    assert together(agree, [NOTHING, NOTHING]) == [None, None]
    assert agree(World(), None, None, False) is None


def test_one_is_asked_to_stop_and_all_know_why():
    assert together(agree, [NOTHING, ("SIGTERM", None, False)]) == ["SIGTERM", "SIGTERM"]
    assert together(agree, [("a", None, False), ("b", None, False)]) == ["a", "a"]
    assert agree(World(), "STOP file", None, False) == "STOP file"


def test_a_stop_after_the_last_step_means_nothing():
    assert together(agree, [(None, None, True), ("SIGTERM", None, True)]) == [None, None]


@pytest.mark.parametrize("kind", [DataError, StorageError, MemoryLimitError])
def test_an_error_of_one_ends_all_with_its_code(kind):
    told = kind("the reason")
    first, second = together(agree, [("SIGTERM", None, False), (None, told, False)])
    assert second is told
    assert type(first) is PeerError
    assert (first.exit_code, str(first)) == (kind.exit_code, "the reason")


def test_a_loader_lost_to_the_stop_signal_is_part_of_the_stop():
    lost = MemoryLimitError("a loader process was killed")
    assert together(agree, [NOTHING, ("SIGTERM", lost, False)]) == ["SIGTERM", "SIGTERM"]


def test_what_differs_is_named_on_every_rank():
    same = {"data": "1", "code": "a"}
    assert together(same_everywhere, [(same,), (same,)]) == [None, None]
    for error in together(same_everywhere, [(same,), (same,), ({"data": "2", "code": "a"},)]):
        assert type(error) is DataError
        assert "ranks differ in their data: rank 2 has 2, rank 0 has 1" in str(error)
