"""The smaller benchmarks, and the page that is made from their results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from openmae.config import TASKS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import curves  # noqa: E402
import record  # noqa: E402
import report  # noqa: E402
import startup  # noqa: E402


def test_the_page_is_what_the_results_say(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report.py", "--check"])
    report.main()


def test_another_page_is_found_out(monkeypatch, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(report.PAGE.read_text() + "and twice as fast\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["report.py", "--check"])
    with pytest.raises(SystemExit, match="not what the results say"):
        report.main()


def test_the_page_is_written_with_its_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(sys, "argv", ["report.py"])
    report.main()
    assert (tmp_path / report.PICTURE).exists()
    monkeypatch.setattr(sys, "argv", ["report.py", "--check"])
    report.main()


def made_up() -> dict:
    machine = {"cpu": "a CPU", "cpus": 2, "threads": 2, "device": "cpu"}
    machine["versions"] = {"torch": "1", "timm": "2"}
    common = {"machine": machine, "commit": "a" * 40, "command": "python x", "repeats": 7}
    model = {"model": "vit", "image_size": 224, "decoder": [8, 512, 16], "batch_size": 4}
    row = {"name": "openmae, tuned", "family": "openmae", "images_per_s": 2.0, "all_s": [1.0] * 7}
    row |= {"settings": {"compile": "no"}, "mfu_matmul": 0.5, "peak_bytes": 2**21}
    failed = {"name": "peer", "family": "peer", "images_per_s": 0.0, "failed": "Error: a | b"}
    step = {"rows": [row, failed], "precision": "fp32", "interleaved": False}
    step |= {"loss_difference": {"peer": 1e-7}, "ratio_to_best_peer": None, "absent": {"p": "why"}}
    step |= {"ratio_as_shipped": 1.5, "costs": [{"row": "o", "three_largest": ["mm: 40%"]}]}
    bytes_of = {"name": "openmae", "peak_bytes": 2**22, "before_bytes": 2**21, "step_bytes": 2**21}
    return {
        "throughput-x.json": common | model | step,
        "memory-x.json": common | model | {"rows": [bytes_of]},
        "startup-x.json": common | {"rows": [{"name": "c", "median_s": 0.5, "goal_s": None}]},
        "scaling-x.json": common
        | model
        | {"rows": [{"threads": 1, "images_per_s": 2.0, "efficiency": 1.0}]},
        "ranks-x.json": common
        | model
        | {"ranks": 2, "rank_threads": 1, "efficiency": 0.9}
        | {"sharing_share": 0.0625, "communication_share": 0.0375}
        | {"rows": [{"name": "alone", "median_s": 0.25, "images_per_s": 64.0}]},
    }


def test_every_kind_of_result_has_its_section():
    text = report.page(made_up())
    told = ["each alone at its largest batch", "Error: a / b", "Not measured: p, why.", "mm: 40%"]
    told += ["no other was measured", "1.500 times", "| 1 | 2.00 | 100% |", "90% of 2 times"]
    told += ["communication 3.8%", "| alone | 0.250 | 64.00 |", "| openmae | 4 | 2 | 2"]
    assert [words for words in told if words not in text] == []


def test_results_in_git_say_where_they_come_from():
    for name, result in report.load(report.RESULTS).items():
        assert report.kind_of(name) in report.SECTIONS, name
        assert len(result["commit"]) == 40
        assert result["machine"]["cpu"]
        assert " /" not in result.get("command", ""), "a folder of the one who ran it"


def test_curves_of_a_few_steps(monkeypatch, tmp_path):
    out = tmp_path / "out.json"
    words = ["curves.py", "--steps", "3", "--batch-size", "8", "--dim", "32", "--depth", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(out)])
    curves.main()
    found = json.loads(out.read_text())["precisions"]
    assert found["float64"]["fast_from_plain"] < 1e-13
    assert found["float32"]["fast_from_plain"] < 1e-5
    assert len(found["float32"]["fast"]) == 3


def test_curves_in_git():
    result = json.loads((report.RESULTS / "curves-digits.json").read_text())
    assert result["steps"] == 300
    for precision, most in (("float64", 1e-12), ("float32", 1e-5)):
        row = result["precisions"][precision]
        assert row["fast_from_plain"] == curves.largest(row["fast"], row["plain"]) < most
        assert row["last_loss"] < 0.5 * row["first_loss"], "it learned something"


def test_every_command_is_timed(tmp_path):
    wanted = startup.commands(tmp_path)
    assert set(startup.GOALS) < set(wanted)
    assert all(f"openmae {task} --no-such-option" in wanted for task in TASKS)


def test_start_up_is_measured():
    result = startup.measure(1, "--version")
    assert [row["name"] for row in result["rows"]] == ["openmae --version"]
    assert result["rows"][0]["n"] == 1


def test_a_command_that_fails_ends_the_measurement(monkeypatch):
    monkeypatch.setattr(startup, "program", lambda: [sys.executable, "-c", "raise SystemExit(9)"])
    with pytest.raises(SystemExit, match="exit code 9"):
        startup.measure(1, "--version")


def test_commands_tell_no_folders_of_others():
    words = [f"{ROOT}/benchmarks/x.py", "--json", f"{ROOT}/benchmarks/results/x.json", "/home/me/d"]
    shown = record.command(words)
    assert shown == "python benchmarks/x.py --json benchmarks/results/x.json DIR/d"
    assert record.summary([1.0, 2.0, 4.0])["median_s"] == 2.0
