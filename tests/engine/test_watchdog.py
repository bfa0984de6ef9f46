"""Who hangs, by what the ranks tell of themselves; and the thread that asks them."""

from __future__ import annotations

import threading
import time

import pytest
from torch.distributed import HashStore

from openmae.engine import watchdog
from openmae.engine.distributed import Whereabouts, World
from openmae.engine.watchdog import PHASES, Watchdog, verdict


def told(step: int, phase: str, still: float) -> dict[str, object]:
    return {"step": step, "phase": phase, "still": still}


@pytest.mark.parametrize(
    ("ranks", "text", "speaker"),
    [
        (
            {0: told(7, "vote", 11), 1: told(7, "data", 11)},
            "rank 1 hangs for 11 s reading the images of step 7; rank 0 waits in the vote before"
            " step 7",
            0,
        ),
        (  # the step before is further behind than any phase of this one
            {0: told(8, "data", 11), 1: told(7, "step", 12), 2: told(8, "vote", 11)},
            "rank 1 hangs for 12 s in the gradients of step 7; rank 0 waits reading the images of"
            " step 8",
            0,
        ),
        ({0: told(7, "vote", 11), 2: told(7, "vote", 11)}, "rank 1 does not answer", 0),
        ({1: told(7, "vote", 11), 2: told(7, "vote", 11)}, "rank 0 does not answer", 1),
        (  # all at one place: the one that came first hangs for longest
            {0: told(7, "vote", 11), 1: told(7, "vote", 12), 2: told(7, "vote", 10)},
            "rank 1 hangs for 12 s in the vote before step 7",
            0,
        ),
        ({0: told(9, "save", 300), 1: told(9, "vote", 300), 2: told(9, "vote", 300)}, None, 0),
        (
            {0: told(9, "save", 241), 1: told(9, "vote", 241), 2: told(9, "vote", 241)},
            "rank 0 hangs for 241 s saving step 9",
            0,
        ),
        ({0: told(9, "vote", 11), 1: told(9, "data", 3), 2: told(9, "vote", 11)}, None, 0),
    ],
)
def test_the_rank_that_is_furthest_behind_is_named(ranks, text, speaker):
    size = 2 if set(ranks) == {0, 1} else 3
    for rank in range(size):
        found = verdict(ranks, World(rank, size), 15.0 if text is None else 10.0)
        if text is None:
            assert found is None
        elif rank in ranks:
            assert found is not None
            assert found[1] == (rank == speaker)
            if rank == speaker:
                assert found[0].startswith(text)


def test_every_phase_has_words():
    for phase in PHASES:
        found = verdict({0: told(3, phase, 1e6)}, World(0, 1), 1.0)
        assert found is not None
        assert "3" in found[0]


def pack(
    size: int, limit: float
) -> tuple[list[Whereabouts], list[Watchdog], list[tuple[int, str, bool]]]:
    store, said = HashStore(), []
    places = [Whereabouts() for _ in range(size)]
    dogs = []
    for rank in range(size):
        world = World(rank, size, rank, size, None, store, places[rank])

        def found(text, speaks, rank=rank):
            said.append((rank, text, speaks))

        dogs.append(Watchdog(world, limit, found))
    return places, dogs, said


def test_two_threads_find_the_rank_that_stands_still():
    places, dogs, said = pack(2, 1.0)
    places[0].at("vote", 4)
    places[1].at("data", 4)
    with dogs[0], dogs[1]:
        until = time.monotonic() + 20
        while not said and time.monotonic() < until:
            time.sleep(0.05)
    assert len(said) == 1  # the other goes on answering: it is ended with the rank that speaks
    rank, text, speaks = said[0]
    assert (rank, speaks) == (0, True)
    assert text.startswith("rank 1 hangs for ")
    assert text.endswith("reading the images of step 4; rank 0 waits in the vote before step 4")


def test_ranks_that_wait_for_a_long_measurement_are_left_alone(monkeypatch):
    monkeypatch.setattr(watchdog, "_ANSWERS", 4.0)  # of one process: all may stand still at once
    places, dogs, said = pack(4, 0.2)
    places[0].at("measure", 4)
    for place in places[1:]:
        place.at("vote", 4)
    with dogs[0], dogs[1], dogs[2], dogs[3]:
        time.sleep(2.5)  # all ask at once, and some again while others still ask
        alive = [dog.is_alive() for dog in dogs]
    assert said == []
    assert alive == [True] * 4


def test_a_rank_that_ended_is_not_waited_for():
    places, dogs, said = pack(2, 0.5)
    for place in places:
        place.at("end", 24)
    with dogs[0], dogs[1]:
        time.sleep(1.5)
        assert not any(dog.is_alive() for dog in dogs)
    assert said == []


def test_a_run_that_goes_on_is_left_alone():
    places, dogs, said = pack(2, 1.0)
    with dogs[0], dogs[1]:
        for step in range(20):
            for place in places:
                place.at("step", step)
            time.sleep(0.1)
    assert said == []
    assert not any(dog.is_alive() for dog in dogs)


def test_a_run_of_one_process_has_no_thread():
    before = threading.active_count()
    with Watchdog(World(), 1.0, lambda *_: None):
        assert threading.active_count() == before
