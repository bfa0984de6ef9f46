"""In which settings runs differ, and that those that mean nothing to a method stay blank."""

from __future__ import annotations

import subprocess
import sys

import pytest

from openmae.tasks.differences import differences

MAE = {"task": "pretrain", "data": "x", "method": "mae", "lr": 1e-3, "mask_ratio": 0.5}
SIMCLR = {"task": "pretrain", "data": "x", "method": "simclr", "lr": 2e-3, "mask_ratio": 0.75}


def test_what_means_nothing_to_a_method_is_blank():
    found = differences({"a": (MAE, {"precision": "fp32"}), "b": (SIMCLR, {"precision": "bf16"})})
    assert found == {
        "method": {"a": "mae", "b": "simclr"},
        "lr": {"a": "0.001", "b": "0.002"},
        "mask_ratio": {"a": "0.5", "b": ""},
        "precision": {"a": "fp32", "b": "bf16"},
    }


def test_what_is_alike_is_left_out():
    other = MAE | {"lr": 2e-3, "seed": 1, "out": "y"}
    assert differences({"a": (MAE, {}), "b": (other, {})}) == {"lr": {"a": "0.001", "b": "0.002"}}


@pytest.mark.parametrize("odd", [{"method": "mea"}, {"depth": "deep"}, {"labels": "x"}])
def test_what_is_not_understood_is_shown_as_it_is(odd):
    """A run of a newer version, or of another command."""
    values = SIMCLR | odd
    found = differences({"a": (MAE, {}), "b": (values, {})})
    assert found["mask_ratio"] == {"a": "0.5", "b": "0.75"}
    assert found["method"]["b"] == values["method"]


def test_runs_of_one_method_are_told_apart_without_torch():
    code = (
        "import sys; from openmae.tasks.differences import differences;"
        "one, two = ({'method': 'mae', 'lr': 1}, {}), ({'method': 'mae'}, {});"
        "print(sorted(differences({'a': one, 'b': two})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "['lr'] False"
