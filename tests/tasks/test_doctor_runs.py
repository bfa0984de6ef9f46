"""Ranks, the short run and the killed one of `openmae doctor`: small programs in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openmae.tasks import doctorranks, doctorruns
from openmae.tasks.doctorchecks import Finding

SEES = {
    "torch": "2.15.0", "cuda": None, "capability": "AVX2", "gpus": [], "mps": False, "nccl": False,
}  # fmt: skip
FINE = {"vote_s": 0.001, "sum_s": 0.01, "sha256": "a"}
PROGRAM = """
import json, os, sys, time
out, again = sys.argv[1], os.path.exists(sys.argv[1])
fault = {fault!r}
if fault == "dies" or fault == "dies again" and again:
    print("openmae: no luck"); sys.exit(6)
print("Continue" if again and fault != "anew" else "Begin", flush=True)
for step in (20,) if fault == "quick" else (5, 20):
    place = out + "/checkpoints/step_%08d" % step
    os.makedirs(place, exist_ok=True)
    for name in ("weights", "optimizer"):
        text = "other" if fault == "bits" and again and name == "optimizer" else "same"
        open(place + "/" + name + ".safetensors", "w").write(text)
    if step == 5 and out == "killed" and not again:
        time.sleep(30)
with open(out + "/metrics.jsonl", "w") as file:
    for step in range(1, 21):
        loss = {{"rises": float(step), "nan": None}}.get(fault, 1.0 / step)
        file.write(json.dumps({{"step": step, "loss": loss}}) + "\\n")
"""


def findings(folder: Path, monkeypatch, fault: str = "") -> list[Finding]:
    text = PROGRAM.format(fault=fault)
    monkeypatch.setattr(doctorruns, "_command", lambda out, _: ["-S", "-c", text, out])
    with doctorruns.Processes(folder).ending() as processes:
        return list(doctorruns.short_runs(processes, "cpu"))


def test_all_is_well(tmp_path, monkeypatch):
    short, kill = findings(tmp_path, monkeypatch)
    assert (short.level, kill.level) == ("ok", "ok")
    assert short.text == "on cpu: loss 0.4567 -> 0.0559"


@pytest.mark.parametrize(
    ("fault", "name", "level", "code", "words"),
    [
        ("rises", "20 steps", "FAILED", 6, "it does not fall"),
        ("nan", "20 steps", "FAILED", 6, "not finite"),
        ("dies", "20 steps", "FAILED", 6, "no luck"),
        ("bits", "kill -9", "FAILED", 4, "optimizer.safetensors differs"),
        ("anew", "kill -9", "FAILED", 4, "it began anew"),
        ("dies again", "kill -9", "FAILED", 4, "no luck"),
        ("quick", "kill -9", "warning", 4, "before it could be killed"),
    ],
)
def test_what_can_go_wrong(tmp_path, monkeypatch, fault, name, level, code, words):
    found = next(f for f in findings(tmp_path, monkeypatch, fault) if f.name == name)
    assert (found.level, found.code) == (level, code)
    assert words in found.text
    assert found.fix


def test_no_process_is_left(tmp_path):
    with doctorruns.Processes(tmp_path).ending() as processes:
        process = processes.start("long", ["-S", "-c", "import time; time.sleep(60)"])
        assert process.poll() is None
    assert process.poll() is not None


def test_a_process_that_takes_too_long(tmp_path):
    with doctorruns.Processes(tmp_path).ending() as processes:
        process = processes.start("long", ["-S", "-c", "import time; time.sleep(60)"])
        assert doctorruns._wait(process, 0.1) is None
    assert process.poll() is not None


def test_it_is_the_shipped_command():
    """The words that are run are words of ours, in the order they are typed."""
    from openmae.cli import check

    words = doctorruns._command("x", "cpu")
    task, config = check(words[2:])
    assert (task, config.steps, config.save_every) == ("pretrain", 20, 5)  # type: ignore[attr-defined]
    assert json.loads(config.model_dump_json())["out"] == "x"


# Ranks.


def test_one_rank_reduces(tmp_path):
    found = doctorranks.reduces("gloo", tmp_path / "store", 0, 1, "cpu")
    assert found["vote_s"] > 0
    assert doctorranks.sees()["gpus"] == []


def ranks_that_say(folder: Path, monkeypatch, *said: dict | None) -> list[Finding]:
    """The findings when the two ranks leave these answers."""
    with doctorruns.Processes(folder).ending() as processes:
        start = processes.start

        def pretend(name: str, _):
            answer = said[int(name[-1])]
            text = f"open({name + '.json'!r}, 'w').write({json.dumps(answer)!r})"
            return start(
                name, ["-S", "-c", text if answer else "print('boom'); raise SystemExit(1)"]
            )

        monkeypatch.setattr(processes, "start", pretend)
        return doctorruns.ranks(processes)[1]


def test_answers_of_ranks(tmp_path, monkeypatch):
    good = {"sees": SEES, "gloo": FINE}

    def gloo(one, two):
        return next(f for f in ranks_that_say(tmp_path, monkeypatch, one, two) if f.name == "gloo")

    assert gloo(good, good).level == "ok"
    assert "different sums" in gloo(good, {**good, "gloo": {**FINE, "sha256": "b"}}).text
    lost = {**good, "gloo": {"error": "RuntimeError: no route"}}
    assert "works over lo only" in gloo(*[{**lost, "gloo lo": FINE}] * 2).text
    assert gloo(lost, lost).level == "FAILED"
    for file in tmp_path.glob("*.json"):
        file.unlink()
    found = ranks_that_say(tmp_path, monkeypatch, good, None)
    assert [(f.level, f.text) for f in found] == [("FAILED", "rank 1: boom")]
    nccl = {**good, "nccl": {"error": "unhandled system error"}}
    found = ranks_that_say(tmp_path, monkeypatch, nccl, nccl)
    assert "NCCL_DEBUG" in next(f for f in found if f.name == "nccl").fix
