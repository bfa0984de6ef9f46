"""F18: ranks that are started again must not read the addresses of the dead ones, which the store
of torchrun still holds.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist
from fleet import free_port

from openmae.engine import distributed


def _meet(pool: ThreadPoolExecutor) -> list[Any]:
    """The stores of two ranks that come together."""
    return list(pool.map(lambda rank: distributed._store(rank, 2), (0, 1)))


def test_ranks_that_come_again_see_their_own_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    agent = dist.TCPStore("127.0.0.1", port, 1, True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    with ThreadPoolExecutor(2) as pool:
        for number in range(3):
            first, second = _meet(pool)
            assert not first.check(["address"]), "an address of a dead rank"
            assert not second.check(["address"])
            first.set("address", f"of meeting {number}")
            assert bytes(second.get("address")).decode() == f"of meeting {number}"
    del agent
