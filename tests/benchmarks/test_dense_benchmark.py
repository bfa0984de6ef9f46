"""The benchmark of detection and segmentation runs, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("detect", ["openmae ViTDet", "torchvision Mask R-CNN R50"]),
        ("segment", ["openmae UPerNet", "torchvision DeepLabV3 R50"]),
    ],
)
def test_it_runs(task, names, tmp_path):
    out = tmp_path / "out.json"
    words = "--device cpu --model vit_tiny_patch16_224 --size 64 --pyramid-dim 16 --regions 16"
    command = [sys.executable, str(ROOT / "benchmarks/dense.py"), "--task", task, *words.split()]
    command += ["--repeats", "1", "--batch-size", "2", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [row["name"] for row in result["rows"]] == names
    for row in result["rows"]:
        assert row["train_peak_bytes"] > 10_000_000
        assert row["predict"]["images_per_s"] > 0
    assert result["rows"][1]["parameters"] > 30_000_000
    assert result["command"].startswith("python benchmarks/dense.py --task")
