"""A function in forks of this process that are the ranks of a gloo group."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fleet import environment, free_port


def in_ranks(size: int, function: Callable[[int], dict[str, torch.Tensor]], folder: Path) -> Any:
    """What `function(rank)` returns in each of `size` ranks."""
    port, children = free_port(), []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            _be(rank, size, port, function, folder)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _be(rank: int, size: int, port: int, function: Any, folder: Path) -> None:
    code = 1
    try:
        os.environ.update(environment(rank, size, port))
        torch.set_num_threads(1)
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(seconds=60))
        torch.save(function(rank), folder / f"{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
