"""`openmae benchmark`: the training step on this machine, and the loader beside it. What is timed
is what runs: `engine.loop.training_step`, `data.loader.TrainBatches`, the method of `pretrain`.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from openmae.config.base import Options
from openmae.config.benchmark import BenchmarkConfig
from openmae.config.pretrain import PretrainConfig
from openmae.config.training import pair
from openmae.data.check import check_size, scan
from openmae.data.loader import TrainBatches, loader
from openmae.data.packed import PackedSource
from openmae.data.sources import Source, open_source
from openmae.data.transforms import TrainTransform
from openmae.engine import memory
from openmae.engine.device import cpu_count, environment, resolve_device, resolve_precision
from openmae.engine.log import say
from openmae.engine.loop import Plan, State, training_step
from openmae.engine.measure import Trial, best, bottleneck, data_sheet, matmul_rate, search, windows
from openmae.engine.optim import Schedule, adamw
from openmae.engine.parallel import parallelize
from openmae.engine.runfolder import Results, gigabytes
from openmae.engine.textfile import write_text
from openmae.errors import MemoryLimitError, StorageError
from openmae.tasks.account import need_of, size_of
from openmae.tasks.attention import resolve_attention, use_choices
from openmae.tasks.benchmarklines import tell
from openmae.tasks.fitting import random_batch
from openmae.tasks.pretrain import build_method, read_as
from openmae.tasks.products import resolve_products

_WINDOWS = 7
_SECONDS = 20.0  # of timing one batch size, after its first step
_LONGEST = {"cpu": 10.0, "cuda": 5.0, "mps": 5.0}  # seconds of a step worth waiting for
_FIRST = {"cpu": 8, "cuda": 64, "mps": 16}  # images, where a search begins
_MOST = 4096
_LOADER_SECONDS, _LOADER_BATCH = 6.0, 64


def run(config: BenchmarkConfig, options: Options) -> Results:
    """Measure; returns what was found, also as a file with `out`. Nothing else is written."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    settings = config.pretraining()
    source = _source(config, settings)
    out = _writable(config.out)
    values = [0.5] * config.channels
    resolved: dict[str, Any] = {
        "mean": values,
        "std": values,
        "device": str(device),
        "precision": precision,
    }
    with torch.device("meta"):
        method = build_method(settings, resolved)
    size, need = size_of(method), need_of(method, precision, ema=False)
    assert size is not None
    assert need is not None
    found: dict[str, Any] = {
        "model": config.model,
        "image_size": list(pair(config.image_size)),
        "parameters": sum(p.numel() for p in method.parameters()),
        "device": str(device),
        "precision": precision,
        "compile": config.compile,
        "train_gflop_per_image": size.train() / 1e9,
        "memory_estimate_fixed": need.fixed,
        "memory_estimate_image": need.image,
    }
    if options.dry_run:
        images = config.batch_size or _FIRST[device.type]
        with_images = f"{gigabytes(need.total(images))} with {images} images"
        say("Dry run", f"{size.train() / 1e9:.2f} GFLOP an image, about {with_images}")
        return Results(found | {"dry_run": True})
    resolved["micro_batch"] = config.batch_size or _FIRST[device.type]
    found["attention"] = resolve_attention(settings, method, resolved)
    found["products"] = resolve_products(settings, resolved)
    found["machine"] = environment(device)
    name = found["machine"].get("gpu", "")
    found["matmul_tflops"] = matmul_rate(device, precision, seconds=2.0) / 1e12
    sheet = data_sheet(name, precision)
    found["data_sheet_tflops"] = None if sheet is None else sheet / 1e12
    method = build_method(settings, resolved).to(device)
    use_choices(method, found)
    trials = _steps(config, parallelize(method, config.compile), precision, device)
    again = matmul_rate(device, precision, seconds=2.0) / 1e12
    found["matmul_tflops"] = max(found["matmul_tflops"], again)
    found["trials"] = [_row(trial, size.train(), found) for trial in trials]
    found["best"] = _row(best(trials), size.train(), found)
    if source is not None:
        rates = _loader_rates(config, settings, source, device)
        found["loader"] = [{"workers": n, "images_per_s": rate} for n, rate in rates.items()]
        found |= _limit(found["best"]["images_per_s"], rates, source, device)
    tell(found)
    if out is not None:
        write_text(out, json.dumps(found, indent=1) + "\n")
    return Results(found)


def _source(config: BenchmarkConfig, settings: PretrainConfig) -> Source | None:
    """The images whose loading is measured, looked at as a run would."""
    if config.data is None:
        return None
    source = open_source(config.data, read_as(settings, {}))
    look = scan(source, config.channels, True)
    check_size(look, pair(config.image_size))
    values = {"value_range": look.value_range, "mean": look.mean, "std": look.std}
    return source.decoded(read_as(settings, values))


def _writable(out: str | None) -> Path | None:
    """Where the JSON goes; refused before anything is measured."""
    if out is None:
        return None
    path = Path(out).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise StorageError(f"{path} {problem}. Give -o the name of a file")
    return path


def _steps(
    config: BenchmarkConfig, method: Any, precision: str, device: torch.device
) -> list[Trial]:
    """The batch that was given, or a search for one."""
    rate = 1e-4  # finite steps on random images; its size changes no time
    state = State(method.train(), adamw(method, rate, (0.9, 0.95), 0.05), None)
    longest = _LONGEST[device.type]

    def one(batch: int) -> Trial | None:
        memory.release(device)
        memory.reset_peak(device)
        try:
            return _trial(config, state, batch, precision, device)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
        state.optimizer.zero_grad(set_to_none=True)  # after the handler: it holds the tensors
        return None

    with torch.random.fork_rng(devices=[]):
        if config.batch_size is not None:
            trials = [made] if (made := one(config.batch_size)) is not None else []
        else:
            free = memory.available(device)
            room = None if free is None else int(memory.MARGIN * free + memory.peak(device))
            trials = list(search(_FIRST[device.type], one, _MOST, longest, room))
    if not trials:
        asked = config.batch_size or _FIRST[device.type]
        raise MemoryLimitError(
            f"{asked} images at a time do not fit into the memory of {device}. Give a smaller"
            " --batch-size, or a smaller model"
        )
    return trials


def _trial(
    config: BenchmarkConfig, state: State, batch: int, precision: str, device: torch.device
) -> Trial:
    plan = Plan(
        total=1_000_000,
        global_batch=batch,
        micro_batch=batch,
        schedule=Schedule(1e-4, 1e-4, 0, 1_000_000),
        seed=0,
        device=device,
        precision=precision,
        epoch_images=batch,
    )
    images = random_batch(state.method, batch, seed=0)
    images["image"] = images["image"].to(device)  # the step alone: loading is measured apart

    def step() -> None:
        training_step(state, images, plan)

    start = time.perf_counter()
    first = windows(step, device, 1, 1, _SECONDS)[0]
    warm = time.perf_counter() - start < 2 * _SECONDS
    count = max(1, min(config.steps, int(_SECONDS / _WINDOWS / first)))
    times = windows(step, device, _WINDOWS, count, _SECONDS) if warm else [first]
    return Trial(batch, statistics.median(times), memory.peak(device), tuple(times))


def _row(trial: Trial, flops: float, found: dict[str, Any]) -> dict[str, Any]:
    """A trial with its rates: model FLOP utilisation is that of the published formulation."""
    rate = trial.rate * flops / 1e12
    sheet = found["data_sheet_tflops"]
    return {
        "batch_size": trial.batch,
        "step_s": trial.step_s,
        "windows_s": list(trial.times),
        "images_per_s": trial.rate,
        "peak_bytes": trial.peak_bytes,
        "tflops": rate,
        "mfu_matmul": rate / found["matmul_tflops"],
        "mfu_data_sheet": None if sheet is None else rate / sheet,
    }


def _loader_rates(
    config: BenchmarkConfig, settings: PretrainConfig, source: Source, device: torch.device
) -> dict[int, float]:
    """Images a second of the loader alone, by number of processes; 0 is this process."""
    cores = cpu_count()
    some = sorted({n for n in (1, cores // 2, cores) if 0 < n <= 16})
    if device.type == "cpu":
        some = [0, *some]
    transform = TrainTransform(pair(config.image_size), settings.crop, settings.flip, 0)
    batches = TrainBatches(source, transform, 0, min(_LOADER_BATCH, len(source)))
    rates = {}
    for workers in config.workers or some:
        stream = loader(batches, range(1_000_000), workers, pin=device.type == "cuda")
        for _ in range(max(1, 2 * workers)):  # what was made ahead does not count
            next(stream)
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < _LOADER_SECONDS:
            images += len(next(stream)["image"])
        rates[workers] = images / (time.perf_counter() - start)
        stream.close()
    return rates


def _limit(
    step_rate: float, rates: dict[int, float], source: Source, device: torch.device
) -> dict[str, Any]:
    """Which of step and loader limits a run, and the share of the time that it waits. On a CPU the
    step uses every core, so loading comes on top of it.
    """
    workers = max(rates, key=lambda n: rates[n])
    which, waiting = bottleneck(step_rate, rates[workers])
    if device.type == "cpu" and 0 in rates:
        workers = 0
        waiting = step_rate / (step_rate + rates[0])
        which = "loader" if waiting > 0.5 else "step"
    packed = isinstance(source, PackedSource)
    return {"limit": which, "waiting": waiting, "workers": workers, "packed": packed}
