"""The same command with other settings or other data: refused by name, or continued as allowed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from trials import STEPS, Server, checkpoints, command, final, losses, status

from openmae import cli
from openmae.cli import main
from openmae.config.base import extra_of
from openmae.config.pretrain import PretrainConfig
from openmae.data.sources import digits

AT = 4

OTHER = {
    "model": "vit_small_patch16_224", "dim": 32, "depth": 2, "heads": 4, "image_size": 16,
    "patch_size": 4, "channels": 3, "mask": "block", "mask_ratio": 0.5, "target": "norm_pixels",
    "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4, "decoder": "cross",
    "decoder_fusion": True, "predict": 0.5, "masks": 2, "progressive": ("4:0.5",),
    "init": "x.safetensors",
    "mask_unit": 2, "mask_ratio_end": 0.5, "mask_tokens": "encoder", "registers": 1,
    "uniformity": 0.01, "target_args": ("components=3",), "augment": "jitter",
    "channel_groups": ("1",), "group_masks": "same",
    "method": "simclr", "method_args": ("temperature=0.1",),
    "epochs": 2.0, "steps": 48, "batch_size": 32, "micro_batch": 8, "lr": 1e-3, "min_lr": 1e-6,
    "warmup_epochs": 3.0, "weight_decay": 0.1, "betas": (0.9, 0.999), "clip": 1.0, "ema": 0.5,
    "weight_decay_end": 0.4,
    "crop": 0.9, "flip": True, "mean": 0.4, "std": 0.4, "val": "digits", "eval_every": 0.1,
    "bands": (2,), "value_range": "0:9", "sampling": "balanced", "repeats": 2,
    "mix": ("digits=0.5",),
    "knn": True, "bad_images": "zero", "workers": 1, "seed": 1, "device": "auto",
    "gpus": 1, "restarts": 5, "rank_timeout": "5m", "parallel": "fsdp", "reshard": False,
    "compress_gradients": True,
    "precision": "bf16", "attention": "math", "products": "torch", "compile": True,
    "grad_checkpointing": True,
    "deterministic": True,
    "save_every": 5, "keep": 4,
    "save_in_background": True, "on_save_error": "stop",
    "log_every": 2, "max_skips": 3, "track": "tensorboard", "time_limit": "1h",
}  # fmt: skip
"""Another value of every setting but the positional data and the folder itself."""

ELSEWHERE = {"predict"}
"""Needs a run with another decoder: tests/tasks/test_pretrain_variants.py."""


@pytest.fixture(scope="module")
def stopped(trials: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can be continued at step 4."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    ended = trials.run(command(out), at_step=AT, act={"signal": "SIGTERM"})
    assert ended.code == 75, ended.text
    return out


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def _changed(out: Path, name: str) -> list[str]:
    """The command with another value of one setting, which is not tried out on the way."""
    more = {"steps": None} if name == "epochs" else {}
    return [*command(out, **{**more, name: OTHER[name]}), "--dry-run"]


def test_every_setting_is_in_the_table() -> None:
    assert set(OTHER) == set(PretrainConfig.model_fields) - {"data", "out"}
    assert extra_of(PretrainConfig, "data")["change"] == "allow"


@pytest.mark.parametrize("name", [name for name in OTHER if name not in ELSEWHERE])
def test_a_changed_setting(stopped: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    kind, words = extra_of(PretrainConfig, name)["change"], _changed(stopped, name)
    before = (stopped / "config.yaml").read_bytes()
    code = cli.main(words)
    said = capsys.readouterr()
    allowed = cli.main([*words, "--allow-change", name])
    said_then = capsys.readouterr()
    if kind == "free":
        assert (code, allowed) == (0, 0), said.err
        assert f"would continue at step {AT}" in said.out
    else:
        architecture = name in ("model", "dim", "depth", "heads")
        assert code == (4 if architecture else 2), said.out
        assert name.replace("_", "-") in said.err.replace("_", "-")
        assert ("--allow-change" in said.err) is (kind == "allow")
        assert allowed == (0 if kind == "allow" else code), said_then.err
        assert len(said.err.strip().splitlines()) <= 4
    assert (stopped / "config.yaml").read_bytes() == before, "a dry run wrote"


def test_typed_values_that_are_the_runs_are_fine(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every setting of the run, typed out: nothing differs."""
    saved = yaml.safe_load((stopped / "config.yaml").read_text())
    more = {n: tuple(v) if isinstance(v, list) else v for n, v in saved.items() if n in OTHER}
    more = {n: v for n, v in more.items() if v is not None and n != "epochs"}
    assert len(more) > 25
    assert cli.main([*command(stopped, **{**more, "recipe": None}), "--dry-run"]) == 0
    assert "would continue" in capsys.readouterr().out


def test_nothing_typed_but_data_and_folder(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pretrain", "digits", "--out", str(stopped), "--dry-run"]) == 0
    assert f"would continue at step {AT} of {STEPS}" in capsys.readouterr().out


def test_a_refusal_names_both_values_and_the_ways_out(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(_changed(stopped, "lr")) == 2
    said = capsys.readouterr().err
    assert "--lr 0.002 -> 0.001 differs from the run" in said
    assert str(stopped) in said
    assert "--allow-change lr" in said
    assert "--out" in said
    assert cli.main([*_changed(stopped, "lr"), "--allow-change", "lrr"]) == 2
    assert "Did you mean lr?" in capsys.readouterr().err


def test_an_allowed_change_counts_and_is_kept(
    trials: Server, run: Path, whole: Path, tmp_path: Path
) -> None:
    words = command(run, lr=1e-3)
    ended = trials.run([*words, "--allow-change", "lr"], at_step=8, act={"signal": "SIGTERM"})
    assert ended.code == 75, ended.text
    assert yaml.safe_load((run / "config.yaml").read_text())["lr"] == 1e-3
    assert trials.run(command(run)).code == 2, "the old value is now the changed one"
    ended = trials.run(words)
    assert ended.code == 0, ended.text
    assert final(run) != final(whole)
    assert losses(run)[:AT] == losses(whole)[:AT]
    assert losses(run)[AT + 2 :] != losses(whole)[AT + 2 :]


def test_a_refused_change_touches_nothing(trials: Server, run: Path, whole: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    for name in ("lr", "dim", "seed"):
        assert trials.run(_changed(run, name)[:-1]).code in (2, 4)
    assert {p: p.read_bytes() for p in before} == before
    assert trials.run(command(run)).code == 0
    assert final(run) == final(whole)


def test_a_longer_run_goes_on_from_the_end(trials: Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = command(out, steps=None, epochs=0.26)
    ended = trials.run(first)
    assert ended.code == 0, ended.text
    assert status(out)["total"] == STEPS
    assert "--epochs 0.52 --allow-change epochs" in trials.run(first).text
    longer = command(out, steps=None, epochs=0.39)
    ended = trials.run(longer)
    assert ended.code == 2, ended.text
    assert "--epochs 0.26 -> 0.39" in ended.text
    words = [*longer, "--allow-change", "epochs"]
    ended = trials.run(words, at_step=30, act={"signal": "SIGKILL"})
    assert ended.code == -9, ended.text
    assert f"at step {STEPS} of 36" in ended.text
    ended = trials.run(words)
    assert ended.code == 0, ended.text
    assert (status(out)["step"], status(out)["state"]) == (36, "done")
    assert [s for s, _, _ in losses(out)] == list(range(1, 37))
    assert "step_00000036" in checkpoints(out)
    ended = trials.run(longer)
    assert ended.code == 0, ended.text
    assert "finished at step 36" in ended.text


def _folder(path: Path, images: range) -> Path:
    """Digits as PNG files."""
    path.mkdir(exist_ok=True)
    pixels = digits().images
    for i in images:
        Image.fromarray(np.ascontiguousarray(pixels[i, :, :, 0])).save(path / f"{i:03d}.png")
    return path


@pytest.fixture(scope="module")
def on_files(trials: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder of 40 images, an unbroken run on it, and one that can be continued."""
    base = tmp_path_factory.mktemp("files")
    data, unbroken, broken = _folder(base / "images", range(40)), base / "whole", base / "broken"
    assert trials.run(command(unbroken, str(data))).code == 0
    ended = trials.run(command(broken, str(data)), at_step=AT, act={"signal": "SIGTERM"})
    assert ended.code == 75, ended.text
    return data, unbroken, broken


def _copies(on_files: tuple[Path, Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(on_files[0], tmp_path / "images")
    shutil.copytree(on_files[2], tmp_path / "run")
    return tmp_path / "images", tmp_path / "run"


def test_a_moved_folder_that_is_equal_continues(
    trials: Server, on_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, out = _copies(on_files, tmp_path)
    ended = trials.run(command(out, str(data)))
    assert ended.code == 0, ended.text
    assert final(out) == final(on_files[1])
    assert losses(out) == losses(on_files[1])


@pytest.mark.parametrize("change", ["+2 -1", "+1 -0", "+0 -1", "+1 -1"])
def test_changed_data_refuse_unless_allowed(
    trials: Server, on_files: tuple[Path, Path, Path], tmp_path: Path, change: str
) -> None:
    data, out = _copies(on_files, tmp_path)
    more, less = (int(w[1:]) for w in change.split())
    if change == "+1 -1":
        (data / "005.png").write_bytes((data / "005.png").read_bytes() + b"\0")  # another size
    else:
        _folder(data, range(40, 40 + more))
        for i in range(less):
            (data / f"{i:03d}.png").unlink()
    ended = trials.run(command(out, str(data)))
    assert ended.code == 3, ended.text
    assert f"has {40 + more - less} images, the run began with 40 ({change})" in ended.text
    assert "--allow-change data" in ended.text
    ended = trials.run([*command(out, str(data)), "--allow-change", "data"])
    assert ended.code == 0, ended.text
    assert status(out)["step"] == STEPS
    same = final(out) == final(on_files[1])
    assert same is (change == "+1 -1"), "only that change left every pixel as it was"


def test_the_data_are_gone(
    trials: Server, on_files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, out = _copies(on_files, tmp_path)
    shutil.rmtree(data)
    ended = trials.run(command(out, str(data)))
    assert ended.code == 3, ended.text
    assert "does not exist" in ended.text
    (tmp_path / "moved").mkdir()
    ended = trials.run(command(out, str(tmp_path / "moved")))
    assert ended.code == 3, ended.text
    assert "has 0 images" in ended.text


def test_a_refused_change_leaves_the_run_as_it_was(tmp_path, capsys):
    out = str(tmp_path / "run")
    words = f"pretrain digits --recipe digits --steps 4 --save-every 2 --workers 0 --out {out}"
    assert main([*words.split(), "--time-limit", "0s"]) == 75  # stops before the first step
    before = (tmp_path / "run" / "config.yaml").read_text()
    assert main([*words.split(), "--mask-ratio", "0.95", "--allow-change", "mask_ratio"]) == 2
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    assert main(words.split()) == 0
    shorter = f"pretrain digits --steps 2 --allow-change steps --out {out}"
    assert main(shorter.split()) == 2
    assert "already" in capsys.readouterr().err
