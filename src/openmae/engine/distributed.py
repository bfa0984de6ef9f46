"""The ranks of a run: who they are, and what they agree on.

A run of one process is a `World` of one, for which everything here is trivial. What ranks say to
each other about the run goes over a gloo group in memory of the CPU, so that it never waits for a
GPU; gradients go over NCCL where there is one.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from openmae.errors import LostPeerError, OpenMAEError, PeerError, UsageError

PATIENCE = timedelta(hours=24)
"""How long a collective may wait: rank 0 measures and saves while others wait. What hangs is found
by the watchdog, which knows the difference."""

_JOINING = timedelta(minutes=10)  # for all ranks to appear
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "failed to recv, got 0 bytes",
    "Socket Timeout",
    "Timed out waiting",
    "NCCL communicator was aborted",
    "remote process exited",
    "recvVector failed",
    "sendBytes failed",
)


class Whereabouts:
    """Where a rank is in its run, noted for the watchdog: two assignments."""

    def __init__(self) -> None:
        self.place: tuple[int, str] = (0, "start")
        self.since = time.monotonic()

    def at(self, phase: str, step: int) -> None:
        """Note a phase of `watchdog.PHASES`, before it begins."""
        self.place, self.since = (step, phase), time.monotonic()


@dataclass(frozen=True)
class World:
    """Rank `rank` of `size`; the first one (`main`) writes the run folder and speaks to the user.

    `control` is the gloo group of what is agreed on, None in a run of one process. `store` is the
    key-value store of this attempt.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    control: Any = None
    store: Any = None
    place: Whereabouts = field(default_factory=Whereabouts)

    @property
    def main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def vote(self, code: int) -> int:
        """The largest code of all ranks. Every rank calls it at the same place."""
        if self.size == 1:
            return code
        asked = torch.tensor([code], dtype=torch.int64)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self.control)
        return int(asked)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.vote(0)

    def gather(self, value: Any) -> list[Any]:
        """What every rank says, in their order, on every rank; as JSON, so nothing of it is run."""
        if self.size == 1:
            return [value]
        told = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(bytes(part.numpy())) for part in self.gather_rows(told)]

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """The tensors (N_r, ...) of every rank, on the CPU; all but their first size are equal."""
        rows = rows.detach().cpu().contiguous()
        if self.size == 1:
            return [rows]
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)]), group=self.control)
        most = max(int(count) for count in counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.control)
        return [part[: int(count)] for part, count in zip(parts, counts, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """What rank 0 says, on every rank; as JSON."""
        return self.gather(value if self.main else None)[0]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of a tensor on the device of the run, in place; never read back."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def slice(self, global_batch: int) -> tuple[int, int]:
        """(first row, rows) of this rank in a global batch."""
        return self.rank * global_batch // self.size, global_batch // self.size


def asked() -> bool:
    """Whether the environment says that this process is a rank of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def own_device(name: str) -> str:
    """A device as each of several ranks takes it: cuda without a number."""
    return name.split(":")[0] if asked() else name


@contextmanager
def joined(device_name: str) -> Iterator[World]:
    """The world of this process: of one, or of the ranks that the environment tells of. `cuda`
    then means the GPU of this rank.

    Raises:
        UsageError: the device has a number, which every rank would take.
        LostPeerError: another rank ended.
    """
    if not asked():
        yield World()
        return
    if ":" in device_name:
        raise UsageError(f"--device {device_name}: with several ranks each takes its own: cuda")
    on_gpu = device_name in ("auto", "cuda") and torch.cuda.is_available()
    world = _join(on_gpu)
    try:
        yield world
    except (RuntimeError, ConnectionError) as error:
        _leave(on_gpu)
        if not lost_peer(error):
            raise
        raise LostPeerError(f"rank {world.rank} lost another rank: {_line(error)}") from error
    except OpenMAEError as error:
        said = not isinstance(error, LostPeerError | PeerError) and _said(world, error)
        _leave(on_gpu)
        if said:
            raise PeerError(error.exit_code, str(error)) from error
        raise
    except BaseException:
        _leave(on_gpu)
        raise
    else:
        _leave(waits=False)


def _said(world: World, error: OpenMAEError) -> bool:
    """Whether rank 0 says the same; it is asked for a moment, since all ranks may have found it."""
    try:
        if world.main:
            world.store.set("said", str(error))
            return False
        world.store.wait(["said"], timedelta(seconds=2))
        return bool(world.store.get("said").decode() == str(error))
    except (RuntimeError, ConnectionError, TimeoutError):  # rank 0 is gone, or has nothing to say
        return False


def _join(on_gpu: bool) -> World:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, size, local_rank, local_size = (int(os.environ.get(n, "0")) for n in names)
    if on_gpu:
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise UsageError(f"--gpus: this machine has {count} GPUs for {local_size} ranks")
        torch.cuda.set_device(local_rank)
    store = _store(rank, size)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore("ranks", store),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    world = World(rank, size, local_rank, max(local_size, 1), control, store)
    world.barrier()
    return world


def _store(rank: int, size: int) -> Any:
    """The store of the ranks that are there now.

    A store outlives ranks that are started again (torchrun's own does), and must not give them the
    addresses of dead ones (pytorch#135957). So each meeting has a room of its own in it.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        first = rank == 0 and not agents
        listen = _loopback(port) if first and host == "127.0.0.1" else None
        store = dist.TCPStore(host, port, size, first, _JOINING, master_listen_fd=listen)
        return dist.PrefixStore(f"room_{_room(store, rank, size)}", store)
    except (RuntimeError, OSError) as error:
        raise LostPeerError(f"rank {rank} found no rank 0 at {host}:{port}: {_line(error)}") from (
            error
        )


def _loopback(port: int) -> int:
    """A listening socket that this machine alone can reach; torch's own would listen to all."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(1024)
        return listening.detach()


def _room(store: Any, rank: int, size: int) -> str:
    """A name that rank 0 makes up and gives to every rank that knocks, until all are in.

    Numbers of attempts would not do: machines that restart at different times count differently.
    What a dead rank left at the door gets an answer that nobody reads.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"knock/{rank}", mine)
        room = str(store.get(f"room/{mine}").decode())  # waits for it
        store.set(f"here/{room}/{rank}", "")
        return room
    others, answered, end = range(1, size), set[str](), time.monotonic() + _JOINING.total_seconds()
    while not store.check([f"here/{mine}/{other}" for other in others]):
        if time.monotonic() > end:
            raise RuntimeError("not all ranks came")
        for other in others:
            if store.check([f"knock/{other}"]):
                knocked = store.get(f"knock/{other}").decode()
                if knocked not in answered:
                    answered.add(knocked)
                    store.set(f"room/{knocked}", mine)
        time.sleep(0.02)
    return mine


def _leave(waits: bool) -> None:
    """Close the connections. After an error those of NCCL would wait for the other ranks to do the
    same, and are left to the end of the process.
    """
    if dist.is_initialized() and not waits:
        dist.destroy_process_group()


def lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    text = str(error)
    named = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    return named or isinstance(error, ConnectionError) or any(words in text for words in _LOST)


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
