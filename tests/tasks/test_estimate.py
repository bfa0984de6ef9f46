"""The plan before a run: time at an invented matmul rate, patience, and advice about the loader."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from openmae.config import Options
from openmae.errors import UsageError
from openmae.methods.mae import MAE
from openmae.tasks import estimate
from openmae.tasks.account import size_of
from openmae.tasks.kind import Job
from openmae.tasks.pretrain import Pretraining

DAY = 86_400.0


def _job(device="cpu", steps=1000, workers=None, source=None, recipe=None, batch=256) -> Job:
    config = SimpleNamespace(batch_size=batch, workers=workers)
    resolved = {"device": device, "precision": "fp32", "total_steps": steps, "recipe": recipe}
    return Job(config, resolved, source, None, None)


@pytest.fixture
def rate(monkeypatch):
    """A machine of 100 GFLOP/s; counts how often it is measured."""
    asked = []
    monkeypatch.setattr(estimate, "matmul_rate", lambda *_: asked.append(None) or 1e11)
    return asked


def _method(name: str, **more) -> MAE:
    with torch.device("meta"):
        return MAE(name, **more)


def test_the_time_of_a_plan(rate):
    method = _method("vit_base_patch16_224")
    seconds, share = estimate.seconds_of(_job(), method)
    assert share == 0.6
    assert seconds == pytest.approx(size_of(method).train() * 256 * 1000 / (0.6 * 1e11))
    assert estimate.time_line((seconds, share)) == (
        "about 2.9 days at 60% of this machine's matmul rate"
    )


def test_the_width_that_does_most_of_the_work_counts(rate):
    wide = {"decoder_dim": 512, "decoder_depth": 8}
    _, share = estimate.seconds_of(_job(), _method("vit_tiny_patch16_224", **wide))
    assert share == 0.6  # the decoder of 512 and not the encoder of 192


def test_nothing_is_said_where_nothing_is_known(rate):
    small = {"encoder_args": {"embed_dim": 64, "num_heads": 2}, "decoder_dim": 32}
    narrow = _method("vit_tiny_patch16_224", **small)
    assert estimate.seconds_of(_job(steps=10**6), narrow) is None
    base = _method("vit_base_patch16_224")
    assert estimate.seconds_of(_job("mps"), base) is None
    assert estimate.seconds_of(_job(), torch.nn.Linear(2, 2)) is None
    assert estimate.seconds_of(_job(steps=1, batch=8), base) is None
    assert rate == [], "nothing needs to be measured for that"


@pytest.fixture
def terminal(monkeypatch):
    def answer(text: str | None) -> None:
        def read(_: str) -> str:
            if text is None:
                raise EOFError
            return text

        tty = SimpleNamespace(isatty=lambda: True)
        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr(estimate, "sys", SimpleNamespace(stdin=tty, stdout=tty))

    return answer


def _ask(found, job=None, **options):
    estimate.require_patience(Pretraining(), job or _job(), found, Options(**options))


def test_a_big_job_on_a_cpu_is_named(capsys):
    _ask((19 * DAY, 0.6))
    said = capsys.readouterr().err.strip()
    assert said.endswith("No GPU: this plan takes about 19.0 days. Small plan: --recipe laptop")
    _ask((19 * DAY, 0.6), _job(recipe="laptop"))
    assert "Fewer --epochs" in capsys.readouterr().err
    for found, job in ((None, None), ((DAY / 2, 0.6), None), ((19 * DAY, 0.6), _job("cuda"))):
        _ask(found, job)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "n", "no", "maybe", None])
def test_a_terminal_is_asked(terminal, text):
    terminal(text)
    with pytest.raises(UsageError, match="--recipe laptop, or --yes"):
        _ask((19 * DAY, 0.6), ask=True)
    _ask((19 * DAY, 0.6))  # --yes, --json and Python never ask
    _ask((19 * DAY, 0.6), ask=True, dry_run=True)


@pytest.mark.parametrize("text", ["y", "Yes "])
def test_a_yes_starts_it(terminal, text):
    terminal(text)
    _ask((19 * DAY, 0.6), ask=True)


@pytest.mark.parametrize(
    ("device", "workers", "cores", "expected"),
    [("cuda", 4, 16, "--workers 8, or openmae pack"), ("cuda", 12, 16, "--workers 16, or"),
     ("cuda", 16, 16, "openmae pack"), ("cuda", 0, 2, "--workers 1, or"),
     ("cuda", None, 8, "--workers 8, or"), ("cpu", None, 8, "openmae pack")],
)  # fmt: skip
def test_advice(monkeypatch, device, workers, cores, expected):
    monkeypatch.setattr(estimate, "cpu_count", lambda: cores)
    monkeypatch.setattr("openmae.engine.device.cpu_count", lambda: cores)
    assert estimate.loader_advice(_job(device, workers=workers)).startswith(expected)


def test_advice_for_what_is_packed(monkeypatch):
    monkeypatch.setattr(estimate, "PackedSource", SimpleNamespace)
    job = _job("cpu", source=SimpleNamespace())
    assert estimate.loader_advice(job).startswith("--repeats 2")
