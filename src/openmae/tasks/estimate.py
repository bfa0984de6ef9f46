"""How long a run will take, before its first step, and what to do when its loader is too slow.

Once a run goes on it knows better: its own windows give the time that is left.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from openmae.config.base import Options
from openmae.data.packed import PackedSource
from openmae.engine.device import auto_workers, cpu_count
from openmae.engine.flops import MAESize
from openmae.engine.log import duration, warn
from openmae.engine.measure import matmul_rate
from openmae.errors import UsageError
from openmae.tasks.account import size_of
from openmae.tasks.kind import Job, Kind

_SHARES = {"cpu": ((384, 0.6), (192, 0.45), (128, 0.25)), "cuda": ((768, 0.5), (384, 0.35))}
"""Width from which on a step reaches this share of the machine's matmul rate. Narrower ones are
bound by other things, and nothing is said of them.
"""
_SMALL = {"cpu": 1e13, "cuda": 1e16}  # operations of a run that is over before it is worth a word
_SMALL_PLANS = {"pretrain": ("laptop", "--recipe laptop"), "finetune": ("", "--blocks 1")}
_LONG = 86_400.0  # seconds on a CPU, above which a run is named before it starts


def seconds_of(job: Job, method: nn.Module) -> tuple[float, float] | None:
    """(seconds, the share of the matmul rate that they suppose); None where nothing honest can be
    said.
    """
    device = torch.device(job.resolved["device"])
    size = size_of(method)
    varying: tuple[str, ...] = getattr(job.config, "progressive", ())  # sizes of images
    if size is None or varying or device.type not in _SHARES:
        return None
    operations = size.train() * job.config.batch_size * job.resolved["total_steps"]
    width = size.encoder.width
    if isinstance(size, MAESize):
        parts = size.forward()
        decoding = sum(v for name, v in parts.items() if name.startswith("decoder"))
        if 2 * decoding > sum(parts.values()):
            width = size.decoder.width
    share = next((s for least, s in _SHARES[device.type] if width >= least), None)
    if share is None or operations < _SMALL[device.type]:
        return None
    return operations / (share * matmul_rate(device, job.resolved["precision"])), share


def time_line(found: tuple[float, float]) -> str:
    """The estimate in words."""
    seconds, share = found
    return f"about {duration(seconds)} at {share:.0%} of this machine's matmul rate"


def require_patience(
    kind: Kind, job: Job, found: tuple[float, float] | None, options: Options
) -> None:
    """Say so when a run on a CPU would take more than a day; asks on a terminal, unless --yes.

    Raises:
        UsageError: the answer was not yes.
    """
    if found is None or found[0] < _LONG or torch.device(job.resolved["device"]).type != "cpu":
        return
    recipe, spelled = _SMALL_PLANS.get(kind.task, ("", ""))
    advice = "Fewer --epochs" if job.resolved["recipe"] == recipe else f"Small plan: {spelled}"
    warn(f"No GPU: this plan takes about {duration(found[0])}. {advice}")
    if not options.ask or options.dry_run or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    try:
        answer = input("Start it? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError(f"not started. {advice}, or --yes to start it anyway")


def loader_advice(job: Job) -> str:
    """What helps a run that waits for its data."""
    device_type = torch.device(job.resolved["device"]).type
    workers = job.config.workers
    workers = auto_workers(device_type) if workers is None else workers
    helps = []
    if workers < cpu_count() and device_type != "cpu":  # whose step uses every core
        helps.append(f"--workers {min(max(2 * workers, workers + 1), cpu_count())}")
    if not isinstance(job.source, PackedSource):
        helps.append("openmae pack")
    return ", or ".join(helps) or "--repeats 2 takes two crops of each decoded image"
