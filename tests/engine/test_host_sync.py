"""A run reads a value from the device when it logs, and at no other time.

A read waits for everything that was queued; with one a step a GPU is idle while Python prepares the
next. On CPU the reads are counted; on CUDA torch itself reports them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import run_folder
from reads import Reads

from openmae.engine import checkpoint
from openmae.engine.ema import EMA
from openmae.engine.loop import Plan, State, train, training_step
from openmae.engine.optim import Schedule, adamw
from openmae.engine.signals import StopRequest
from openmae.methods import MAE, Classifier

ROWS, STEPS, EVERY = 4, 100, 10
SIZES = {"embed_dim": 16, "depth": 2, "num_heads": 2}


def method(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "classifier":
        return Classifier(
            encoder="vit_tiny_patch16_224", classes=["a", "b"], image_size=16, patch_size=4,
            in_chans=1, encoder_args=SIZES, drop_path=0.2, mixup=0.8, cutmix=1.0,
        )  # fmt: skip
    return MAE("vit_tiny_patch16_224", 16, 4, 1, SIZES, 16, 2, 2)


def state(kind: str, device: torch.device, decay: float | None = 0.9) -> State:
    made = method(kind).to(device).train()
    optimizer = adamw(made, 1e-3, (0.9, 0.95), 0.05)
    return State(made, optimizer, EMA(made, decay) if decay else None)


def plan(device: torch.device, **more: Any) -> Plan:
    values = {
        "total": STEPS, "global_batch": ROWS, "micro_batch": 2, "seed": 0, "device": device,
        "schedule": Schedule(1e-3, 0.0, 5, STEPS), "precision": "fp32", "epoch_images": 40,
        "clip": 1.0, "log_every": EVERY, "save_every": 1000, "record": {},
    }  # fmt: skip
    return Plan(**values | more)


def batches(pin: bool = False) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        image = torch.randint(0, 256, (ROWS, 1, 16, 16), dtype=torch.uint8, generator=generator)
        label = torch.arange(ROWS) % 2
        tensors = {"image": image, "label": label}
        tensors = {n: t.pin_memory() for n, t in tensors.items()} if pin else tensors
        yield tensors | {"path": [f"{step}/{i}" for i in range(ROWS)], "bad": []}


@pytest.mark.parametrize("kind", ["mae", "classifier"])
def test_a_run_reads_only_when_it_logs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read a window, in 100 steps with micro-batches, a limit of the norm and averages."""
    run, cpu = run_folder(tmp_path), torch.device("cpu")
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)  # reads everything, as it must
    made = state(kind, cpu)
    with Reads() as reads, StopRequest() as stop:
        assert train(made, batches(), plan(cpu), run, stop) is None
    assert made.step == STEPS
    assert reads.found["tolist"] == STEPS // EVERY
    assert reads.total == STEPS // EVERY, +reads.found
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == STEPS // EVERY


def test_a_step_that_is_not_finite_is_read_with_its_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights stay, the names of the samples come with the next row: no read more than that."""
    run, cpu = run_folder(tmp_path), torch.device("cpu")
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)
    made, stream = state("mae", cpu), list(batches())
    floats = [b | {"image": b["image"] / 255} for b in stream]
    floats[41]["image"][2, 0, 0, 0] = float("nan")
    with Reads() as reads, StopRequest() as stop:
        train(made, iter(floats), plan(cpu), run, stop)
    assert reads.total == STEPS // EVERY + 1, +reads.found
    assert '"samples": ["41/2"]' in (run.path / "anomalies.jsonl").read_text()


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(), lambda x: float(x.sum()), lambda x: bool((x > 0).any()),
        lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x.numpy(), lambda x: x[x > 0],
        lambda x: torch.nonzero(x), lambda x: x.to("cpu"), lambda x: x.add(1, alpha=1).equal(x),
        lambda x: [1] if x.sum() > 0 else [], lambda x: x.masked_select(x > 0),
    ],
)  # fmt: skip
def test_reads_are_counted(read: Any) -> None:
    with Reads() as reads:
        read(torch.ones(3))
    assert reads.total == 1, +reads.found


def test_work_on_the_device_is_no_read() -> None:
    x = torch.ones(3, 4, requires_grad=True)
    with Reads() as reads:
        (x.softmax(-1).argsort(-1).float() @ x.T).where(x[:, :1] > 0, 0.0).sum().backward()
        assert len(x) == 3
    assert reads.total == 0, +reads.found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["mae", "classifier"])
def test_a_step_never_waits_for_the_gpu(kind: str) -> None:
    """Torch raises at each synchronising call; the first steps, which allocate, are left out."""
    device = torch.device("cuda")
    made, told = state(kind, device), plan(device)
    stream = batches(pin=True)
    for _ in range(3):
        training_step(made, next(stream), told)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(5):
                training_step(made, next(stream), told)
    finally:
        torch.cuda.set_sync_debug_mode(before)
