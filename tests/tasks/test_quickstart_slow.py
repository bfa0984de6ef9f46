"""The digits recipe in full: pretraining must teach the network something, for each seed."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_beats_random_weights_and_a_mean_fill(seed, run, tmp_path):
    run("quickstart", "--out", tmp_path / "run", "--seed", seed)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["probe_accuracy"] >= results["random_weights_probe_accuracy"] + 0.02
    assert results["reconstruction_mse"] <= 0.6 * results["mean_fill_mse"]
    assert results["seed"] == seed
