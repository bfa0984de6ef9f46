"""The loader benchmark runs, compares the same work, and its result in the repository is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = ["classic", "folder", "packed jpeg", "packed lossless", "packed raw"]


def test_a_small_run(tmp_path):
    words = [
        "--images",
        "6",
        "--batch-size",
        "3",
        "--rounds",
        "2",
        "--workers",
        "1",
        "--entries",
        "400",
    ]
    out = tmp_path / "new/out.json"
    command = [sys.executable, str(ROOT / "benchmarks/loader.py"), *words, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    require_whole(json.loads(out.read_text()))
    assert done.stdout.count("img/s") == 2 * len(PATHS)


def test_the_committed_result():
    result = json.loads((ROOT / "benchmarks/results/loader-cpu.json").read_text())
    require_whole(result)
    assert result["rounds"] >= 7
    assert result["memory"]["entries"] == 200_000
    assert result["memory"]["bytes_per_entry_in_process"] < 200
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["folder"]["ratio_to_classic"] >= 1.7
    assert rows["packed jpeg"]["ratio_to_classic"] >= 3


def require_whole(result: dict) -> None:
    assert [row["name"] for row in result["rows"]] == PATHS
    for row in result["rows"]:
        assert len(row["all_s"]) == len(row["all_cpu_s"]) == result["rounds"]
        assert row["images_per_s"] == pytest.approx(result["batch_size"] / row["median_s"])
    assert list(result["end_to_end_images_per_s"]) == PATHS
    assert max(result["levels_from_classic"].values()) < 12
    assert (
        result["levels_from_classic"]["folder"] == result["levels_from_classic"]["packed lossless"]
    )
    assert result["machine"]["threads"] == 1
    assert len(result["commit"]) == 40
