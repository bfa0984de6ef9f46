"""The device, its precision, and the machine: everything about hardware that a run records."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from openmae.errors import UsageError

_PACKAGES = (
    "openmae",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "simplejpeg",
    "safetensors",
)


def resolve_device(name: str) -> torch.device:
    """ "auto" is CUDA where torch sees it, else the CPU.

    Raises:
        UsageError: the device is not there, with the reason.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name}: should be auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            built = "sees no GPU" if torch.version.cuda else "is a CPU-only build"
            raise UsageError(
                f"--device {name}: torch {torch.__version__} {built}. Use --device cpu"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(
                f"--device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: this torch has no MPS. Use --device cpu")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """ "auto" is bf16 on GPUs that have it, else fp32; bf16 is 4-5 times slower on most CPUs."""
    if name != "auto":
        return name
    return (
        "bf16"
        if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        else "fp32"
    )


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The one precision idea: bf16 autocast over fp32 weights."""
    return (
        torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    )


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Deterministic kernels, for equal bits on GPUs; on CPU they already are."""
    before = torch.are_deterministic_algorithms_enabled()
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(on or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with a number of CPU threads: gradients differ in bits between 1 and 2, so a run keeps
    its own.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    machine: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpus": cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return {"versions": versions, **machine}


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")),
                "",
            )
    except OSError:
        return platform.processor()


def auto_workers(device_type: str) -> int:
    """Loader processes: most cores beside a GPU; none on CPU, where the step uses every core."""
    return min(16, max(1, cpu_count() - 1)) if device_type == "cuda" else 0
