"""One of two ranks that `openmae doctor` starts: says what torch sees, then reduces over gloo, and
over NCCL where there are GPUs.

    python -m openmae.tasks.doctorranks FOLDER RANK
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

SIZE = 2
VALUES = 2**20  # 4 MiB of fp32
TIMEOUT = timedelta(seconds=15)


def sees() -> dict[str, Any]:
    """Versions and devices of torch."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "gpus": [],
        "mps": torch.backends.mps.is_available(),
        "nccl": dist.is_nccl_available(),
    }
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            free = torch.cuda.mem_get_info(number)[0]
            found["gpus"].append([about.name, about.total_memory, free])
    return found


def reduces(backend: str, store: Path, rank: int, size: int, device: str) -> dict[str, Any]:
    """All-reduce of 4 MiB against the sum that is known, and the time of a vote of all ranks.

    Raises:
        RuntimeError: the ranks did not find each other, or do not agree.
    """
    dist.init_process_group(
        backend, store=dist.FileStore(str(store), size), rank=rank, world_size=size, timeout=TIMEOUT
    )
    try:
        parts = [
            torch.randn(VALUES, generator=torch.Generator().manual_seed(r)) for r in range(size)
        ]
        mine = parts[rank].to(device, copy=True)
        dist.all_reduce(mine)
        expected = parts[0] if size == 1 else parts[0] + parts[1]
        if not torch.equal(mine.cpu(), expected):
            raise RuntimeError("the sum over the ranks is wrong")
        code = torch.tensor([rank], device=device)
        votes = [
            _timed(lambda: dist.all_reduce(code, dist.ReduceOp.MAX), device) for _ in range(50)
        ]
        if int(code) != size - 1:
            raise RuntimeError("the maximum over the ranks is wrong")
        sums = [_timed(lambda: dist.all_reduce(mine), device) for _ in range(5)]
        digest = hashlib.sha256(mine.cpu().numpy().tobytes()).hexdigest()
        return {"vote_s": median(votes[5:]), "sum_s": median(sums), "sha256": digest}
    finally:
        dist.destroy_process_group()


def _timed(call: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def tried(folder: Path, rank: int) -> dict[str, Any]:
    """Everything that this rank has to say; an error is part of it."""
    found: dict[str, Any] = {"sees": sees()}
    found["gloo"] = _attempt(lambda: reduces("gloo", folder / "gloo", rank, SIZE, "cpu"))
    if "error" in found["gloo"]:  # most often a host name that leads nowhere
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        found["gloo lo"] = _attempt(lambda: reduces("gloo", folder / "lo", rank, SIZE, "cpu"))
    size = min(len(found["sees"]["gpus"]), SIZE)
    if found["sees"]["nccl"] and rank < size:
        device = f"cuda:{rank}"
        found["nccl"] = _attempt(lambda: reduces("nccl", folder / "nccl", rank, size, device))
    return found


def _attempt(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return call()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


if __name__ == "__main__":
    place, number = Path(sys.argv[1]), int(sys.argv[2])
    text = json.dumps(tried(place, number))
    (place / f"rank_{number}.part").write_text(text, encoding="utf-8")
    os.replace(place / f"rank_{number}.part", place / f"rank_{number}.json")
