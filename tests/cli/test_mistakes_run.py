"""Mistakes with a run that is there already, and what may go wrong on the way."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openmae.methods.mae import MAE

STEPS = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quiet, make_images, tiny) -> Path:
    """photos/ and a run of four steps on it, with a checkpoint of each of the last three."""
    root = tmp_path_factory.mktemp("finished")
    make_images(root / "photos")
    words = ("pretrain", root / "photos", "--out", root / "run", *tiny, "--steps", STEPS)
    assert quiet(*words, "--save-every", 1) == 0
    return root


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run and its images, and the folder that it is in."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def words(tiny) -> list[str]:
    """The command of the run, to be given again."""
    return ["pretrain", "photos", "--out", "run", *tiny, "--steps", str(STEPS)]


def files(folder: Path) -> dict[str, bytes]:
    own = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in own}


def short(said) -> bool:
    return len(said.err.splitlines()) <= 4 and "Traceback" not in said.err + said.out


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"no {pattern!r} in {text!r}"
    return match[1]


def metrics(run: str) -> list[dict]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("flag", "asked", "has"),
    [("--model", "vit_small_patch16_224", "vit_tiny_patch16_224"), ("--dim", "32", "16")],
)
def test_row_11_another_architecture(flag, asked, has, here, cli, words):
    before = files(Path("run"))
    changed = [*words, flag, asked] if flag not in words else [
        asked if words[i - 1] == flag else w for i, w in enumerate(words)
    ]  # fmt: skip
    said = cli(*changed)
    assert said.code == 4
    assert short(said)
    for part in ("run is ", has, f"asked for {asked}", "another --out"):
        assert part in said.err
    assert files(Path("run")) == before
    use = found(r"Use (--\S+ \S+?),", said.err).split()
    assert use == [flag, has]
    assert cli("pretrain", "photos", "--out", "run", *use).code == 0
    if flag == "--dim":
        other = [w if w != "run" else "other" for w in changed]
        assert cli(*other).code == 0


def test_row_16_a_changed_setting(here, cli, words):
    Path("run", "results.json").unlink()
    shutil.rmtree(Path("run", "checkpoints", "step_00000004"))
    before = files(Path("run"))
    said = cli(*words, "--lr", "3e-4")
    assert said.code == 2
    assert short(said)
    for part in ("lr 0.004 -> 0.0003 differs from the run", "Drop it", "--out runs/new"):
        assert part in said.err
    assert files(Path("run")) == before
    allow = found(r"(--allow-change \w+)", said.err).split()
    fixed = cli(*words, "--lr", "3e-4", *allow)
    assert fixed.code == 0, fixed.err
    assert "Continue" in fixed.out
    assert "lr: 0.0003" in Path("run", "config.yaml").read_text()


def test_row_16_a_fixed_setting_has_no_way_to_allow_it(here, cli, words):
    said = cli(*words, "--seed", "1")
    assert (said.code, short(said)) == (2, True)
    assert "allow-change" not in said.err
    assert cli(*words, "--seed", "1", "--allow-change", "seed").code == 2
    assert cli(*[w if w != "run" else "runs/new" for w in words], "--seed", "1").code == 0


def test_row_17_changed_data(here, cli, words, make_images):
    Path("run", "results.json").unlink()
    shutil.rmtree(Path("run", "checkpoints", "step_00000004"))
    shutil.copy("photos/0.png", "photos/new.png")
    Path("photos/1.png").unlink()
    Path("photos/2.png").unlink()
    said = cli(*words)
    assert said.code == 3
    assert short(said)
    assert "photos has 5 images, the run began with 6 (+1 -2)" in said.err
    allow = found(r"(--allow-change data)", said.err).split()
    fixed = cli(*words, *allow)
    assert fixed.code == 0, fixed.err
    assert cli(*words).code == 0  # the new data are now the run's


def test_row_18_already_finished(here, cli, words):
    before = files(Path("run"))
    said = cli(*words)
    assert said.code == 0
    assert short(said)
    assert f"run finished at step {STEPS}" in said.out
    assert files(Path("run")) == before
    longer = found(r"Longer: (--steps \d+ --allow-change \w+)", said.out).split()
    assert longer == ["--steps", "8", "--allow-change", "steps"]
    fixed = cli("pretrain", "photos", "--out", "run", *longer)
    assert fixed.code == 0, fixed.err
    assert json.loads(Path("run/results.json").read_text())["steps"] == 8


def test_row_18_in_epochs(here, cli, tiny):
    words = ["pretrain", "photos", "--out", "other", *tiny, "--epochs", "1"]
    assert cli(*words).code == 0
    said = cli(*words)
    longer = found(r"Longer: (--epochs \d+ --allow-change \w+)", said.out).split()
    assert cli("pretrain", "photos", "--out", "other", *longer).code == 0
    assert json.loads(Path("other/results.json").read_text())["steps"] == 3


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX);"
    " f.truncate(0); f.write('pid 812 on there since 10:41'); f.flush(); print('held', flush=True);"
    " sys.stdin.read()"
)


def test_row_19_in_use_by_another_process(here, cli, words):
    Path("run", "results.json").unlink()
    shutil.rmtree(Path("run", "checkpoints", "step_00000004"))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "run/.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        before = files(Path("run"))
        said = cli(*words)
    finally:
        holder.communicate()
    assert said.code == 4
    assert short(said)
    assert "run is in use by pid 812 on there since 10:41" in said.err
    assert files(Path("run")) == before
    assert cli(*words).code == 0  # the lock died with its process


def test_row_19_holds_other_files(here, cli, words):
    Path("mine").mkdir()
    Path("mine/thesis.docx").write_text("years of work")
    Path("mine/zoo.txt").write_text("z")
    before = files(Path("mine"))
    mine = [w if w != "run" else "mine" for w in words]
    said = cli(*mine)
    assert said.code == 4
    assert short(said)
    assert "mine holds other files (thesis.docx ...): refusing" in said.err
    assert files(Path("mine")) == before
    assert "new or empty --out" in said.err
    Path("empty").mkdir()
    assert cli(*[w if w != "run" else "empty" for w in words]).code == 0


def test_row_21_a_corrupt_checkpoint_costs_its_steps_only(here, cli, words):
    Path("run", "results.json").unlink()
    weights = Path("run/checkpoints/step_00000004/weights.safetensors")
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    clean = Path("run/encoder.safetensors").read_bytes()
    said = cli(*words)
    assert said.code == 0
    for part in ("step_00000004", "weights.safetensors fails its checksum", "step_00000003"):
        assert part in said.err
    assert "1 step lost" in said.err
    assert "at step 3 of 4" in said.out
    assert Path("run/encoder.safetensors").read_bytes() == clean


def poison(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    """Make the first image's loss NaN in the steps for which `when` is true."""
    forward = MAE.forward

    def broken(self, images, rand=None, **more):
        out = forward(self, images, rand, **more)
        if not self.training or not when(rand.step):
            return out
        bad = out["sample_loss"].clone()
        bad[0] = torch.nan
        return {**out, "loss": out["loss"] * torch.nan, "sample_loss": bad}

    monkeypatch.setattr(MAE, "forward", broken)


def test_row_27_one_step_that_is_not_finite_is_skipped(here, cli, words, monkeypatch):
    poison(monkeypatch, lambda step: step == 2)
    new = [w if w != "run" else "new" for w in words]
    said = cli(*new)
    assert said.code == 0
    assert short(said)
    assert re.search(r"Loss not finite at step 2 on \d\.png\. Step skipped \(1 of 10\)", said.err)
    row = json.loads(Path("new/anomalies.jsonl").read_text())
    assert (row["step"], row["what"], len(row["samples"])) == (2, "Loss", 1)
    assert json.loads(Path("new/results.json").read_text())["skipped_steps"] == 1
    assert [r["loss"] for r in metrics("new") if "loss" in r][-1] is not None


def test_row_27_ends_the_run_at_the_limit_with_finite_weights(here, cli, words, monkeypatch):
    new = [w if w != "run" else "new" for w in words]
    with monkeypatch.context() as patch:
        poison(patch, lambda step: step >= 1)
        said = cli(*new, "--max-skips", "2", "--log-every", "1", "--save-every", "1")
    assert said.code == 6
    assert "Traceback" not in said.err
    assert "Back to step 1 once" in said.err
    last = said.err[said.err.rindex("2 steps in a row") :]
    assert len(last.splitlines()) <= 4
    for part in ("--lr ", "--clip 1.0", "anomalies.jsonl", "last finite"):
        assert part in last
    status = json.loads(Path("new/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 6)
    rate = found(r"(--lr [\d.e-]+)", last).split()
    changes = ["--clip", "1.0", "--allow-change", "lr,clip"]
    fixed = cli(*new, *rate, *changes)
    assert fixed.code == 0, fixed.err
    assert metrics("new")[-1]["step"] == STEPS


def test_the_lock_of_this_process_is_given_back(here, cli, words):
    assert cli(*[w if w != "run" else "new" for w in words]).code == 0
    with Path("new/.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert file.writable()
