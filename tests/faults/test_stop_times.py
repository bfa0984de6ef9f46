"""F10, F13, F27: stops at any time, things in a run folder that are none, data that change under a
run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trials import STEPS, Server, command, final, left_over, losses, status

from openmae.data.sources import digits
from openmae.engine import checkpoint


def _stopped(trials: Server, whole: Path, base: Path, stops: int, seed: int) -> int:
    """Runs that get SIGTERM at random moments of their life, until so many have stopped; each is
    then finished. Returns how many stopped before there was anything to save.
    """
    begin = time.perf_counter()
    assert trials.run(command(base / "timed")).code == 0
    span = time.perf_counter() - begin
    draw, early, count, runs = random.Random(seed), 0, 0, 0
    while count < stops:
        out, code = base / f"run-{runs}", 75
        while code == 75 and count < stops:
            started = trials.start(command(out))
            time.sleep(draw.uniform(0.02, 1.2 * span))
            os.kill(started[0], signal.SIGTERM)
            ended = trials.wait(started)
            code = ended.code
            assert code in (0, 75), ended.text
            assert "Traceback" not in ended.text
            if code == 75:
                count += 1
                early += "nothing to save yet" in ended.text
                assert "SIGTERM: " in ended.text
                assert status(out)["exit_code"] == 75
                assert status(out)["resumable"]
            assert left_over(out) == []
        ended = trials.run(command(out))
        assert ended.code == 0, ended.text
        assert final(out) == final(whole)
        assert losses(out) == losses(whole)
        runs += 1
        assert runs < 10 * stops, "the signals came too late"
    return early


def test_stopped_at_random_moments(trials: Server, whole: Path, tmp_path: Path) -> None:
    _stopped(trials, whole, tmp_path, 3, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_thirty_times(trials: Server, whole: Path, tmp_path: Path) -> None:
    assert _stopped(trials, whole, tmp_path, 30, seed=6) > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 2.0, 3.0, 5.0])
def test_a_real_command_while_it_begins(whole: Path, tmp_path: Path, seconds: float) -> None:
    """Imports, the look at the data, the first steps."""
    out, log = tmp_path / "run", tmp_path / "log"
    words = [sys.executable, "-m", "openmae", *command(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        made = subprocess.Popen(words, stdout=file, stderr=file, env=environment)
        time.sleep(seconds)
        made.send_signal(signal.SIGTERM)
        code = made.wait(120)
    assert code in (0, 75), log.read_text()
    assert "Traceback" not in log.read_text()
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert final(out) == final(whole)


# F10: there is no pointer to the newest checkpoint that could be wrong; what looks like one is
# nothing.


def test_a_pointer_of_others_means_nothing(trials: Server, whole: Path, tmp_path: Path) -> None:
    texts = ("step_00000003", "step_99999999", "../../else", "", "\x00\xff")
    out = tmp_path / "run"
    ended = trials.run(command(out), at_step=10, act={"signal": "SIGKILL"})
    assert ended.code == -9, ended.text
    for name, text in zip(("latest", "last", "best", "newest", "pointer"), texts, strict=True):
        (out / "checkpoints" / name).write_text(text)
    ended = trials.run(command(out))
    assert ended.code == 0, ended.text
    assert f"at step 9 of {STEPS}" in ended.text
    assert final(out) == final(whole)


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    """A manifest may not name files elsewhere, and a link to a file is no checkpoint."""
    from parts import state

    made, inside, outside = state(), tmp_path / "in", tmp_path / "out"
    checkpoint.save(inside, 1, made.method, made.optimizer, made.ema, {})
    checkpoint.save(outside, 9, made.method, made.optimizer, made.ema, {})
    manifest = inside / "step_00000001" / "MANIFEST.json"
    text = manifest.read_text().replace("weights.saf", "../../out/step_00000009/weights.saf")
    assert text != manifest.read_text()
    manifest.write_text(text)
    assert checkpoint.problem(inside / "step_00000001") is not None
    (inside / "step_00000005").symlink_to(tmp_path / "nowhere")
    assert checkpoint.problem(inside / "step_00000005") is not None


# F27: files deleted, added and replaced while a run reads them.


def _folder(path: Path, count: int) -> Path:
    path.mkdir()
    pixels = digits().images
    for i in range(count):
        Image.fromarray(np.ascontiguousarray(pixels[i, :, :, 0])).save(path / f"{i:03d}.png")
    return path


def test_files_change_under_a_run(trials: Server, tmp_path: Path) -> None:
    """What is gone is replaced by its place, as an unreadable image; what is new waits."""
    data, out, kept = _folder(tmp_path / "data", 60), tmp_path / "run", tmp_path / "kept"
    words = command(out, str(data), steps=200, save_every=50)
    started = trials.start(words)
    until = time.monotonic() + 60
    while len(losses(out)) < 10:
        assert time.monotonic() < until
        time.sleep(0.01)
    kept.mkdir()
    for i in (3, 17):
        shutil.move(data / f"{i:03d}.png", kept)
    shutil.copy(data / "000.png", data / "new.png")
    (data / "020.png").write_bytes((data / "021.png").read_bytes())
    ended = trials.wait(started)
    assert ended.code in (0, 3), ended.text
    assert "Traceback" not in ended.text
    if ended.code == 0 and status(out)["step"] == 200:
        assert len(losses(out)) == 200
    longer = command(out, str(data), steps=220, save_every=50)
    ended = trials.run([*longer, "--allow-change", "steps"])
    assert ended.code == 3, ended.text
    assert "--allow-change data" in ended.text
