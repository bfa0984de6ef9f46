"""The micro-batch of a run that was asked to find it: the largest part of the batch that fits."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

from openmae.engine import memory
from openmae.engine.device import resolve_device
from openmae.engine.ema import EMA
from openmae.engine.log import warn
from openmae.engine.loop import Plan, State, training_step
from openmae.engine.measure import wait
from openmae.engine.optim import Schedule, adamw
from openmae.engine.parallel import recompute
from openmae.engine.runfolder import RunFolder, gigabytes
from openmae.errors import MemoryLimitError, UsageError
from openmae.methods.base import Base
from openmae.tasks.account import need_of
from openmae.tasks.kind import Job, Kind, reader_of


def choose_micro_batch(kind: Kind, job: Job, method: nn.Module) -> None:
    """Put a number where `resolved` says "auto": found by trial on a GPU, where too much is an
    error, and by the estimate on a CPU, where too much ends the process.

    Raises:
        MemoryLimitError: not even the smallest part fits on the GPU.
        UsageError: the loss is over the whole batch, which cannot be cut then.
    """
    config, resolved = job.config, job.resolved
    coupled = getattr(method, "batch_coupled", False)
    if coupled and config.micro_batch not in (None, config.batch_size):
        raise UsageError(
            f"--micro-batch {config.micro_batch}: the loss is over the whole batch, which cannot be"
            " cut. Leave it out; less memory: a smaller --batch-size, or --gpus N"
        )
    if resolved["micro_batch"] != "auto":
        return
    device = resolve_device(resolved["device"])
    sizes = memory.parts(config.batch_size, even=_mixes(config)) or [config.batch_size]
    need = need_of(method, resolved["precision"], config.ema is not None, config.grad_checkpointing)
    free = memory.available(device)
    if need is None or free is None:
        resolved["micro_batch"] = sizes[0]
        return
    room = memory.MARGIN * free
    if device.type != "cuda":
        found = memory.largest_fitting(sizes, lambda size: need.total(size) <= room)
        resolved["micro_batch"] = found or sizes[-1]
        return
    likely = [size for size in sizes if need.total(size) <= 2 * room] or sizes[-1:]
    found = memory.largest_fitting(likely, lambda size: fits(kind, job, method, size, device))
    if found is None:
        raise too_much(sizes[-1], config.batch_size, _mixes(config))
    resolved["micro_batch"] = found


def fits(kind: Kind, job: Job, method: nn.Module, micro: int, device: torch.device) -> bool:
    """Whether two whole steps on a copy of the method leave a tenth of the memory free: of two
    parts each, so that gradients are there while the second part runs, and with the moments of
    AdamW from the second step on.
    """
    memory.release(device)
    free = memory.available(device)
    memory.reset_peak(device)
    before = memory.peak(device)
    try:
        _two_steps(kind, job, method, micro, device)
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
        return False
    finally:
        memory.release(device)
    return free is None or memory.peak(device) - before <= memory.MARGIN * free


def _two_steps(kind: Kind, job: Job, method: nn.Module, micro: int, device: torch.device) -> None:
    config, resolved = job.config, job.resolved
    rows = min(2 * micro, config.batch_size)
    trial = copy.deepcopy(method).to(device).train()
    if config.grad_checkpointing:
        recompute(trial)
    optimizer = adamw(trial, 0.0, config.betas, config.weight_decay, kind.groups(config, trial))
    state = State(trial, optimizer, EMA(trial, config.ema) if config.ema else None)
    plan = Plan(
        total=2,
        global_batch=rows,
        micro_batch=micro,
        schedule=Schedule(0.0, 0.0, 0, 2),
        seed=0,
        device=device,
        precision=resolved["precision"],
        epoch_images=rows,
        clip=config.clip,
    )
    batch = random_batch(trial, rows, seed=0)
    if isinstance(trial, Base):
        batch |= trial.example(batch["image"])
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            training_step(state, batch, plan)
    wait(device)


def random_batch(method: Any, rows: int, seed: int) -> dict[str, Any]:
    """Images of random numbers (zeros would run faster than real ones do), and labels."""
    generator = torch.Generator().manual_seed(seed)
    encoder = reader_of(method)
    shape = (rows, encoder.in_chans, *encoder.image_size)
    image: Tensor
    if encoder.value_range is None:
        image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:  # deep images come normalised
        image = torch.randn(shape, generator=generator)
    classes = len(getattr(method, "classes", ())) or 1
    label = torch.randint(0, classes, (rows,), generator=generator)
    if getattr(method, "multi_label", False):
        label = torch.nn.functional.one_hot(label, classes)
    return {"image": image, "label": label, "path": [f"random {i}" for i in range(rows)]}


def lower(kind: Kind, job: Job, folder: RunFolder, step: int, micro: int) -> int:
    """A smaller micro-batch for a run whose memory ran out at a step; kept in the run.

    Raises:
        MemoryLimitError: there is none.
    """
    batch, even = job.config.batch_size, _mixes(job.config)
    less = memory.smaller(batch, micro, even)
    if less is None:
        raise too_much(micro, batch, even)
    job.resolved["micro_batch"] = less
    with contextlib.suppress(OSError):  # several ranks may say the same at once
        folder.write_config(kind.task, job.config.model_dump(mode="json"), job.resolved)
    warn(
        f"out of memory at step {step:,} with {micro} images at a time: {less} from here on,"
        f" accumulated to the same batch of {batch}"
    )
    return less


def next_time(kind: Kind, job: Job, folder: RunFolder, step: int, plan: Plan) -> MemoryLimitError:
    """The error of a rank whose memory ran out. Alone it cannot do the step again, because the
    others wait for its gradients; where the micro-batch is found by us, the next start takes less.
    """
    if plan.world.size == 1 or job.config.micro_batch != "auto":
        return too_much(plan.micro_batch, plan.global_batch, _mixes(job.config))
    less = lower(kind, job, RunFolder(folder.path), step, plan.micro_batch)  # whichever rank it is
    return MemoryLimitError(
        f"Out of GPU memory on rank {plan.world.rank} at {plan.micro_batch} images at a time. The"
        f" same command again takes {less}, accumulated to the same batch"
    )


def too_much(micro: int, batch: int, even: bool = False) -> MemoryLimitError:
    """The error of a step that does not fit, with the next smaller one."""
    half = memory.smaller(batch, micro, even)
    if half is None:
        few = "one image" if micro == 1 else f"{micro} images"
        return MemoryLimitError(f"Out of GPU memory at {few} at a time: a smaller model, or cpu")
    return MemoryLimitError(
        f"Out of GPU memory at {micro} images at a time. Same result: --micro-batch {half}"
        " --allow-change micro_batch (accumulates to the same batch)"
    )


def memory_line(job: Job, method: nn.Module) -> str | None:
    """What the run will take of the memory, in words; None where that is not known."""
    config, resolved = job.config, job.resolved
    need = need_of(method, resolved["precision"], config.ema is not None, config.grad_checkpointing)
    if need is None:
        return None
    device = torch.device(resolved["device"])
    total, free = need.total(resolved["micro_batch"]), None
    if device.type in ("cpu", "cuda"):
        free = memory.available(device)
    what = "GPU memory" if device.type == "cuda" else "memory"
    of = f" of {gigabytes(free)} free" if free is not None else ""
    return f"needs about {gigabytes(total)}{of} {what}"


def _mixes(config: Any) -> bool:
    """Whether neighbours of a batch are mixed, so that micro-batches must be even."""
    return bool(getattr(config, "mixes", False))
