"""`--batch-size auto`: which micro-batch a run takes, given memory that the test invents; the batch
and the maths stay.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from openmae.cli import main
from openmae.config import resolve, settings
from openmae.engine import memory
from openmae.errors import MemoryLimitError, UsageError
from openmae.methods.mae import MAE
from openmae.tasks import fitting
from openmae.tasks.account import need_of
from openmae.tasks.kind import Job
from openmae.tasks.pretrain import Pretraining

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PRETRAIN = settings("pretrain")


def _config(**given):
    base = {"batch_size": 12, "warmup_epochs": 0}
    return resolve(PRETRAIN, {"data": "digits", "batch_size": "auto", **given}, base)


def _job(config, micro: int | str = "auto") -> Job:
    resolved = {"micro_batch": micro, "device": "cpu", "precision": "fp32"}
    return Job(config, resolved, SimpleNamespace(), None, None)


@pytest.fixture
def method() -> MAE:
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    return MAE("vit_tiny_patch16_224", 32, 8, 3, sizes, 16, 1, 2)


def test_the_batch_of_the_recipe_stays():
    config = _config()
    assert (config.batch_size, config.micro_batch, config.fixed_micro_batch) == (12, "auto", None)
    assert resolve(PRETRAIN, {"data": "x", "micro_batch": "auto"}).batch_size == 4096
    again = resolve(PRETRAIN, config.model_dump())
    assert (again.batch_size, again.micro_batch) == (12, "auto")
    over = resolve(PRETRAIN, {"data": "x", "batch_size": "Auto"}).over({"batch_size": 64})
    assert (over.batch_size, over.micro_batch) == (64, "auto")


def test_two_answers_to_one_question():
    with pytest.raises(UsageError, match="Give one of them"):
        resolve(PRETRAIN, {"data": "x", "batch_size": "auto", "micro_batch": 4})
    with pytest.raises(UsageError, match="even number"):
        resolve(settings("finetune"), {"model": "m", "data": "x", "micro_batch": "auto",
                                       "batch_size": 7})  # fmt: skip


def test_a_number_is_left_alone(method, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda _: 0)
    job = _job(_config(), 7)
    fitting.choose_micro_batch(Pretraining(), job, method)
    assert job.resolved["micro_batch"] == 7


def _on_cpu(method, monkeypatch, images: float | None) -> int:
    """The choice where memory for that many images is free."""
    need = need_of(method, "fp32", False)
    free = None if images is None else int((need.fixed + images * need.image) / memory.MARGIN) + 1
    monkeypatch.setattr(memory, "available", lambda _: free)
    job = _job(_config())
    fitting.choose_micro_batch(Pretraining(), job, method)
    return job.resolved["micro_batch"]


@pytest.mark.parametrize(
    ("images", "expected"), [(None, 12), (1000, 12), (12, 12), (11.9, 6), (5, 4), (1, 1), (-9, 1)]
)
def test_on_a_cpu_the_estimate_decides(method, monkeypatch, images, expected):
    assert _on_cpu(method, monkeypatch, images) == expected


def test_on_a_gpu_trials_decide(method, monkeypatch):
    """Only those that the estimate thinks possible are tried, and few of them."""
    tried = []

    def fits(kind, job, method, micro, device):
        tried.append(micro)
        return micro <= 5

    monkeypatch.setattr(fitting, "resolve_device", lambda _: CUDA)
    monkeypatch.setattr(fitting, "fits", fits)
    monkeypatch.setattr(memory, "available", lambda _: 10**12)
    job = _job(_config())
    fitting.choose_micro_batch(Pretraining(), job, method)
    assert job.resolved["micro_batch"] == 4
    assert len(tried) <= 3
    monkeypatch.setattr(fitting, "fits", lambda *_: False)
    with pytest.raises(MemoryLimitError, match="one image at a time"):
        fitting.choose_micro_batch(Pretraining(), _job(_config()), method)


def test_a_trial_is_the_real_step_and_leaves_the_method_alone(method, monkeypatch):
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    state, real, seen = torch.get_rng_state(), fitting.training_step, []

    def step(state, batch, plan):
        seen.append((len(batch["image"]), plan.micro_batch))
        if plan.micro_batch > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(state, batch, plan)

    monkeypatch.setattr(fitting, "training_step", step)
    monkeypatch.setattr(memory, "available", lambda _: 10**12)
    job = _job(_config(ema=0.9))
    found = [fitting.fits(Pretraining(), job, method, micro, CPU) for micro in (6, 4)]
    assert found == [False, True]
    assert seen == [(12, 6), (8, 4), (8, 4)]
    assert all(torch.equal(p, before[n]) for n, p in method.named_parameters())
    assert all(p.grad is None for p in method.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(memory, "available", lambda _: 1000)  # it ran, but hardly
    peaks = iter([0, 901])
    monkeypatch.setattr(memory, "peak", lambda _: next(peaks))
    assert not fitting.fits(Pretraining(), job, method, 2, CPU)


def test_random_images_are_not_zeros(method):
    batch = fitting.random_batch(method, 4, seed=0)
    assert batch["image"].shape == (4, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].float().std() > 50


def _weights(folder):
    last = max((folder / "checkpoints").iterdir())
    return load_file(last / "weights.safetensors")


def _resolved(folder) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())["resolved"]


def _auto(tiny, steps=4):
    words = list(tiny)
    words[words.index("--batch-size") + 1] = "auto"
    return [*words, "--steps", str(steps), "--recipe"]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("batch_size: 4\n")
    return str(path)


def test_a_run_keeps_what_it_found(run, make_images, tiny, tmp_path, recipe, monkeypatch):
    photos, out = make_images(tmp_path / "photos"), tmp_path / "auto"
    words = ["pretrain", photos, "--out", out, *_auto(tiny), recipe]
    said = run(*words)
    assert "steps of 4 images," in said
    assert "needs about" in said
    assert _resolved(out)["micro_batch"] == 4
    assert yaml.safe_load((out / "config.yaml").read_text())["batch_size"] == 4
    plain = tmp_path / "plain"
    run("pretrain", photos, "--out", plain, *tiny, "--steps", 4, "--recipe", recipe)
    first, second = _weights(out), _weights(plain)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert "finished at step 4" in run(*words)


def test_out_of_memory_on_the_way(run, make_images, tiny, tmp_path, recipe, monkeypatch):
    """At step 2 more than one image at a time is too much: said in a line, kept, the same run."""
    photos, out, real = make_images(tmp_path / "photos"), tmp_path / "auto", MAE.forward

    def forward(self, batch, rand=None, **more):
        if getattr(rand, "step", 0) >= 2 and len(batch["image"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, rand, **more)

    monkeypatch.setattr(MAE, "forward", forward)
    said = run("pretrain", photos, "--out", out, *_auto(tiny), recipe)
    assert "out of memory at step 2 with 4 images at a time: 2 from here on" in said
    assert "out of memory at step 2 with 2 images at a time: 1 from here on" in said
    assert _resolved(out)["micro_batch"] == 1
    monkeypatch.setattr(MAE, "forward", real)
    plain = tmp_path / "plain"
    run("pretrain", photos, "--out", plain, *tiny, "--steps", 4, "--recipe", recipe)
    first, second = _weights(out), _weights(plain)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=2e-5)
    rows = (out / "metrics.jsonl").read_text().splitlines()
    assert not any(json.loads(row).get("skipped") for row in rows)


def test_without_auto_it_ends_the_run_with_the_fix(
    make_images, tiny, tmp_path, monkeypatch, capsys
):
    real = MAE.forward

    def forward(self, batch, rand=None, **more):
        if isinstance(batch, dict):  # a step, and no look at the sizes
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, rand, **more)

    photos = make_images(tmp_path / "photos")
    monkeypatch.setattr(MAE, "forward", forward)
    words = ["pretrain", photos, "--out", tmp_path / "run", *tiny, "--steps", 2]
    assert main([str(w) for w in words]) == 5
    assert "--micro-batch 2 --allow-change micro_batch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("micro", "even", "said"),
    [(8, False, "--micro-batch 4"), (1, False, "at one image at a time: a smaller model"),
     (2, True, "at 2 images at a time: a smaller model")],
)  # fmt: skip
def test_what_is_too_much(micro, even, said):
    assert said in str(fitting.too_much(micro, 8, even))
