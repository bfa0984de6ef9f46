"""The words of a run whose loss is not where it should be."""

from __future__ import annotations

import pytest

from openmae.config.base import resolve
from openmae.config.pretrain import PretrainConfig
from openmae.config.recipe import read_recipe, shipped
from openmae.engine.runfolder import RunFolder
from openmae.tasks.curvecheck import CurveCheck, at, track_of, windows

RESOLVED = {"total_steps": 2000, "warmup_steps": 50, "recipe": "cifar10"}


def check(tmp_path, recipe="cifar10", **given):
    config = resolve(PretrainConfig, {"data": "x", **given}, read_recipe("pretrain", recipe))
    return CurveCheck(lambda state: {}, config, RESOLVED, RunFolder(tmp_path))


def kinds(looks, losses):
    return [kind for kind, _ in looks.troubles([(10 * (i + 1), v) for i, v in enumerate(losses)])]


def test_a_constant_prediction(tmp_path):
    looks = check(tmp_path)
    assert kinds(looks, [0.99] * 30) == ["stuck"]
    assert kinds(looks, [0.99] * 20) == []  # step 200: too early
    assert kinds(looks, [0.99] * 30 + [0.7] * 10) == []
    assert kinds(check(tmp_path, target="pixels"), [0.99] * 60) == []


def test_a_loss_that_rises(tmp_path):
    looks = check(tmp_path)
    assert kinds(looks, [0.6] * 30 + [0.8] * 20) == ["rising"]
    assert kinds(looks, [0.6] * 30 + [0.62] * 20) == []
    assert kinds(check(tmp_path, mask_ratio_end=0.9), [0.6] * 30 + [0.65] * 20) == []


def test_far_above_the_recipes_own_run(tmp_path):
    looks = check(tmp_path)
    images = 1500 * 128
    assert at(looks.track, images) == pytest.approx(0.57, abs=0.02)
    assert kinds(looks, [0.9] + [0.72] * 149) == ["behind"]
    assert kinds(looks, [0.9] + [0.6] * 149) == []
    assert check(tmp_path, mask_ratio=0.5).track == ()


def test_it_warns_once(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    for step in range(10, 600, 10):
        folder.append("metrics.jsonl", {"step": step, "loss": 0.99})
    looks = check(tmp_path)
    for _ in range(3):
        assert looks(None) == {}
    assert capsys.readouterr().err.count("no better than the mean of each patch") == 1


def test_windows_are_counted_from_the_last_step():
    losses = [(10, 4.0), (20, 3.0), (30, 2.0), (40, 1.0)]
    assert windows(losses, 20) == [(20, 3.5), (40, 1.5)]


def test_a_track_between_its_points():
    track = [(100.0, 1.0), (1000.0, 0.5)]
    assert at(track, 50) is None
    assert at(track, 100) == 1.0
    assert at(track, 10**2.5) == pytest.approx(0.75)
    assert at(track, 5000) == 0.5
    assert at((), 5000) is None


@pytest.mark.parametrize("name", sorted(shipped("pretrain")))
def test_tracks_of_recipes_fall(name):
    config = resolve(PretrainConfig, {"data": "x"}, read_recipe("pretrain", name))
    track = track_of(name, config)
    assert [t[0] for t in track] == sorted(t[0] for t in track)
    assert [t[1] for t in track] == sorted((t[1] for t in track), reverse=True)
