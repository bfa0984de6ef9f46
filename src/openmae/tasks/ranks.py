"""What the ranks of a run agree on before it starts: one plan, one lock, the same data and code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import openmae
from openmae import rank
from openmae.config.training import TrainingConfig
from openmae.engine.agree import same_everywhere
from openmae.engine.checkpoint import Checkpoint, latest
from openmae.engine.distributed import World, own_device
from openmae.engine.log import warn
from openmae.engine.parallel import choose_layout
from openmae.engine.runfolder import RunFolder
from openmae.errors import LostPeerError, OpenMAEError, StorageError, UsageError
from openmae.tasks.kind import Job


@contextmanager
def one_after_another(world: World) -> Iterator[None]:
    """Rank 0 goes first, and the others find what it kept: the look at the data."""
    if not world.main:
        world.barrier()
    yield
    if world.main:
        world.barrier()


@contextmanager
def held(world: World, folder: RunFolder) -> Iterator[None]:
    """The lock of the run folder, held by rank 0 for all."""
    with ExitStack() as stack:
        refused = None
        if world.main:
            try:
                stack.enter_context(folder.lock())
            except StorageError as error:
                refused = str(error)
        if (refused := world.broadcast(refused)) is not None:
            raise StorageError(refused)
        yield


def share(world: World, config: TrainingConfig, mixes: bool) -> int:
    """Images of the global batch that each rank takes.

    Raises:
        UsageError: the batch does not divide by the ranks, with the numbers that work.
    """
    batch, even = config.batch_size, 2 if mixes else 1
    if batch % (world.size * even):
        fits = [n for n in range(1, min(batch, 1024) + 1) if batch % (n * even) == 0]
        near = sorted(sorted(fits, key=lambda n: abs(n - world.size))[:5])
        why = "an even part of the batch (neighbours are mixed)" if mixes else "an equal part"
        raise UsageError(
            f"--batch-size {batch} does not give each of {world.size} ranks {why}."
            f" Ranks that work: {', '.join(map(str, near))}"
        )
    return batch // world.size


def plan_ranks(world: World, job: Job, method: nn.Module) -> bool:
    """Put into `resolved` how the ranks share the run; returns whether that differs from before.

    The batch stays: each rank takes its part, in micro-batches of at most the same size.
    """
    config, resolved = job.config, job.resolved
    rows = share(world, config, bool(getattr(config, "mixes", False)))
    names = ("ranks", "parallel", "threads", "micro_batch", "device")
    before = {name: resolved.get(name) for name in names}
    if resolved.get("ranks", 1) != world.size:
        resolved["threads"] = torch.get_num_threads()
    count = sum(p.numel() for p in method.parameters())
    resolved["parallel"] = choose_layout(config.parallel, count, world)
    resolved["ranks"] = world.size
    resolved["device"] = own_device(resolved["device"])
    micro = config.fixed_micro_batch or config.batch_size
    if config.micro_batch == "auto":  # which every rank found for its own device
        micro = -world.vote(-resolved["micro_batch"])
    resolved["micro_batch"] = min(micro, rows)
    if before["ranks"] not in (None, world.size):
        warn(f"continues within tolerance, not to the bit: ranks {before['ranks']} -> {world.size}")
    return any(resolved[name] != value for name, value in before.items())


def agree_on_words(world: World, config: TrainingConfig) -> None:
    """Go on once all ranks have the same settings and code: before anything depends on them.

    Raises:
        DataError: they differ, naming in what.
    """
    if world.size == 1:
        return
    settings = config.model_dump(mode="json", exclude={"data", "out", "workers", "gpus"})
    same_everywhere(
        world,
        {
            "settings": _hash(json.dumps(settings, sort_keys=True)),
            "code": code_hash(),
            "versions": f"torch {torch.__version__}",
        },
    )


def agree_on_start(world: World, job: Job, method: nn.Module) -> None:
    """Every rank goes on with what rank 0 chose, once all have the same data and model.

    Raises:
        DataError: they differ, naming in what.
    """
    if world.size == 1:
        return
    shapes = [(name, tuple(t.shape)) for name, t in method.state_dict().items()]
    same_everywhere(world, {"data": job.resolved["data_hash"], "model": _hash(str(shapes))})
    job.resolved.update(world.broadcast(job.resolved))


def newest(world: World, folder: RunFolder) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to go on from; rank 0 verifies it for all.

    Raises:
        StorageError: there are some, and none can be used.
    """
    told: Any = None
    if world.main:
        try:
            found, notices = latest(folder.checkpoints)
            place = None if found is None else [str(found.path), found.step, found.state]
            told = [place, notices, None]
        except StorageError as error:
            told = [None, [], str(error)]
    place, notices, refused = world.broadcast(told)
    if refused is not None:
        raise StorageError(refused)
    return (None if place is None else Checkpoint(Path(place[0]), place[1], place[2])), notices


def hang_found(text: str, speaks: bool) -> None:
    """End this rank because one hangs: nothing else can, its main thread waits for ever."""
    error = OpenMAEError(text) if speaks else LostPeerError(text)
    rank.failed(error, text, error.exit_code)
    os._exit(error.exit_code)


def code_hash() -> str:
    """A hash of the package's own files: ranks must run the same code."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(openmae.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
