"""Memory: what a run needs before it starts, what is there, and what to do when it was too little.

Micro-batches of any size accumulate to the same step, so their size is about memory alone.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from openmae.engine.flops import ClassifierSize, MAESize

_SAVED = {"fp32": 64, "bf16": 36}
"""Bytes that a block keeps for its backward pass, for each token and unit of width: the inputs of
two norms, two linear inputs, q, k, v, the attention's output, and twice the MLP's 4 widths. With
bf16 all but the inputs of the norms have two bytes.
"""
_INPUT = 4  # bytes of a block's input, which stays fp32 under autocast
MARGIN = 0.9  # of what is free: allocators round up and fragment
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Need:
    """Bytes of a run: what is there once, and what each image adds."""

    weights: int
    gradients: int
    optimizer: int
    averages: int
    image: int

    @property
    def fixed(self) -> int:
        """Bytes whatever the batch."""
        return self.weights + self.gradients + self.optimizer + self.averages

    def total(self, images: int) -> int:
        """Bytes with a number of images at a time."""
        return self.fixed + images * self.image


def image_bytes(size: MAESize | ClassifierSize, precision: str, again: bool = False) -> int:
    """Bytes that one image keeps from the forward to the backward pass; an estimate. `again`:
    blocks keep their inputs alone, and the largest of them all that it needs, since it runs again.

    Pretraining in this package runs the last decoder block on hidden patches alone, which is not
    taken off here: the estimate is on the safe side.
    """
    each = _SAVED[precision]

    def kept(tokens: int, width: int, depth: float) -> float:
        return tokens * width * (_INPUT * depth + each if again else each * depth)

    everything = size.prefix + size.patches
    pixels = 4 * size.patches * size.values
    if isinstance(size, ClassifierSize):
        depth = size.encoder.depth if size.blocks is None else min(size.blocks, size.encoder.depth)
        return int(kept(everything, size.encoder.width, depth)) + 2 * pixels
    encoder = kept(size.seen, size.encoder.width, size.encoder.depth)
    decoded = everything if size.cross is None else size.cross
    decoder = kept(decoded, size.decoder.width, size.decoder.depth)
    hidden = size.patches - size.kept if size.cross is None else size.cross
    predicted = 4 * 3 * hidden * size.out  # prediction, target, difference
    return int(size.masks * (encoder + decoder + predicted)) + 2 * pixels


def available(device: torch.device) -> int | None:
    """Bytes that this process can still get on the device; None where nobody tells."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    if device.type != "cpu":
        return None
    known = [b for b in (_machine_free(), *(_group_free(*names) for names in _CGROUPS)) if b]
    return min(known, default=None)


def _machine_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, ValueError, StopIteration):
        return None


def _group_free(limit: str, used: str) -> int | None:
    """What a container may still take."""
    try:
        return int(Path(limit).read_text()) - int(Path(used).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None


def reset_peak(device: torch.device) -> None:
    """Begin to watch the largest memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux: forget the largest resident set
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Most bytes since `reset_peak`: of torch's allocator on CUDA, else the resident set of this
    process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, ValueError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that a device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def release(device: torch.device) -> None:
    """Give cached memory back, after what held it is gone."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def parts(batch: int, even: bool = False) -> list[int]:
    """Sizes of micro-batches that divide a batch, the largest first; only even ones where
    neighbours are mixed.
    """
    low = {m for m in range(1, min(math.isqrt(batch), 100_000) + 1) if batch % m == 0}
    all_sizes = low | {batch // m for m in low}
    return sorted((m for m in all_sizes if not even or m % 2 == 0), reverse=True)


def smaller(batch: int, now: int, even: bool = False) -> int | None:
    """The next micro-batch after `now` was too much: at most half; None when nothing is left."""
    return next((m for m in parts(batch, even) if m <= now // 2), None)


def largest_fitting(sizes: list[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of `sizes` (descending) that fits, by bisection; None when none does."""
    low, high = 0, len(sizes)  # everything before low is too large; from high on it fits
    while low < high:
        middle = (low + high) // 2
        if fits(sizes[middle]):
            high = middle
        else:
            low = middle + 1
    return sizes[low] if low < len(sizes) else None
