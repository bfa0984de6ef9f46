"""Several ranks of the small run, as forks of the process that has imported everything."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

from trials import Ended, Server


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(rank: int, size: int, port: int, attempt: int = 0) -> dict[str, str]:
    """What a launcher tells a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OPENMAE_ATTEMPT": str(attempt),
        "GLOO_SOCKET_IFNAME": "lo",
    }


class Fleet:
    """Ranks that run one command together."""

    def __init__(
        self,
        server: Server,
        words: list[str] | list[list[str]],
        size: int,
        hooks: Mapping[int, Any] | None = None,
        more: Mapping[int, dict[str, str]] | None = None,
    ) -> None:
        port = free_port()
        self.server = server
        self.started = []
        for rank in range(size):
            argv = words[rank] if isinstance(words[0], list) else words
            told = environment(rank, size, port) | (more or {}).get(rank, {})
            hook = (hooks or {}).get(rank, {})
            self.started.append(server.start(argv, environment=told, hooks=hook))  # type: ignore[arg-type]

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.started[rank][0], number)

    def wait(self) -> list[Ended]:
        """How each rank ended."""
        return [self.server.wait(one) for one in self.started]


def run(server: Server, words: list[str], size: int, **more: Any) -> list[Ended]:
    """A whole run of several ranks; of one without being a rank."""
    if size == 1:
        return [server.run(words)]
    return Fleet(server, words, size, **more).wait()


def well(ended: list[Ended]) -> bool:
    """Whether every rank ended with 0; shows what they printed otherwise."""
    for rank, one in enumerate(ended):
        assert one.code == 0, f"rank {rank} ended with {one.code}:\n{one.text}"
    return True
