"""Timing: windows of steps, a matmul of this machine, what data sheets promise, and the search for
a batch size.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

_SHEET = (
    (r"H200 NVL", 835.0, 60.0),
    (r"H200", 989.0, 67.0),
    (r"H100 PCIe", 756.0, 51.0),
    (r"H100 NVL", 835.0, 60.0),
    (r"H100", 989.0, 67.0),
    (r"A100", 312.0, 19.5),
    (r"L40S", 362.0, 91.6),
    (r"RTX 4090$", 165.2, 82.6),
    (r"RTX 3090$", 71.0, 35.6),
    (r"V100", None, 15.7),
    (r"\bT4\b", None, 8.1),
)
"""Name, then dense TFLOP/s by NVIDIA's data sheets: bf16 with fp32 sums, and fp32 without TF32.
V100 and T4 have no bf16.
"""
_LEAST_GAIN = 1.03  # images a second, for twice the batch
_CUDA_SIZE, _CPU_SIZE = 8192, 1024


def data_sheet(name: str, precision: str) -> float | None:
    """Peak FLOP/s of a GPU by its name; None for one that is not in the table, or a part of one."""
    if re.search(r"MIG|Laptop|Max-Q", name):
        return None
    for pattern, bf16, fp32 in _SHEET:
        if re.search(pattern, name):
            peak = bf16 if precision == "bf16" else fp32
            return None if peak is None else peak * 1e12
    return None


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def windows(
    step: Callable[[], object], device: torch.device, count: int, steps: int, seconds: float
) -> list[float]:
    """Seconds a step in up to `count` windows of `steps` steps, waiting for the device only between
    windows; no new window after `seconds`. The first call warms up and is not counted.
    """
    step()
    wait(device)
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < count and (not found or time.perf_counter() - began < seconds):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        found.append((time.perf_counter() - start) / steps)
    return found


def matmul_rate(device: torch.device, precision: str, seconds: float = 0.15) -> float:
    """FLOP/s of one large matmul of random numbers: what this machine can do, whatever its data
    sheet says. Zeros would run faster than real numbers do. The best window counts and not the
    median: it is a ceiling, and whatever else runs on the machine only lowers it.
    """
    size = _CUDA_SIZE if device.type == "cuda" else _CPU_SIZE
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)  # nobody else's numbers change
    block = torch.randn(512, 512, generator=generator).to(device, dtype)
    a = block.repeat(size // 512, size // 512)
    out = torch.empty_like(a)
    times = windows(lambda: torch.mm(a, a, out=out), device, 50, 1, seconds)
    return 2.0 * size**3 / min(times)


@dataclass(frozen=True)
class Trial:
    """One batch size, measured."""

    batch: int
    step_s: float
    peak_bytes: int
    times: tuple[float, ...] = ()  # of each window, seconds a step

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch / self.step_s


def search(
    start: int, measure: Callable[[int], Trial | None], most: int, longest: float, free: int | None
) -> Iterator[Trial]:
    """Trials of `start` images and twice as many each time, until one has no room (`measure`
    returns None), brings less than 3 %, would take more memory than `free` (by the growth so far)
    or longer than `longest` seconds a step, or exceeds `most`.
    """
    batch, before = start, list[Trial]()
    while batch <= most:
        if before and 2 * before[-1].step_s > longest:
            return
        if len(before) > 1 and free is not None:
            growth = before[-1].peak_bytes - before[-2].peak_bytes
            if before[-1].peak_bytes + 2 * growth > free:
                return
        made = measure(batch)
        if made is None:
            return
        yield made
        if before and made.rate < _LEAST_GAIN * before[-1].rate:
            return
        before.append(made)
        batch *= 2


def best(trials: list[Trial]) -> Trial:
    """The smallest batch within 3 % of the fastest: more memory for less is no gain."""
    fastest = max(t.rate for t in trials)
    return min((t for t in trials if t.rate * _LEAST_GAIN >= fastest), key=lambda t: t.batch)


def bottleneck(step_rate: float, loader_rate: float) -> tuple[str, float]:
    """Which of two rates, in images a second, limits a run whose loader works beside the step, and
    the share of the time that the step would wait.
    """
    if loader_rate >= step_rate:
        return "step", 0.0
    return "loader", 1 - loader_rate / step_rate
