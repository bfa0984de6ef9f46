"""F29, F30: what is counted, blamed and reported of steps that are not as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from injection import injected
from parts import ROWS, assert_equal_bits, batch, batches, bits, plan, run_folder, state

from openmae.engine.anomalies import Anomalies, TooManySkipsError
from openmae.engine.loop import train, training_step
from openmae.engine.runfolder import RunFolder, read_jsonl
from openmae.engine.signals import StopRequest


def _told(step: int) -> dict[str, Any]:
    return {
        "path": [f"{step}/{i}" for i in range(ROWS)],
        "id": [10 * step + i for i in range(ROWS)],
    }


def _skip(made: Anomalies, step: int, *bad: int) -> None:
    each = torch.ones(ROWS)
    each[list(bad)] = torch.inf
    made.skipped(step, _told(step), each, float(each.mean()))


def test_one_percent_of_a_window(tmp_path: Path) -> None:
    """Ten skipped steps of the last thousand, none beside another."""
    made = Anomalies(plan(total=5000), run_folder(tmp_path), [])
    for step in range(0, 900, 100):
        _skip(made, step, 2)
        made.finite(step + 1, _told(step + 1), 1.0)
    with pytest.raises(TooManySkipsError, match="10 of the last 1,000 steps") as caught:
        _skip(made, 999, 2)
    assert caught.value.begin == 999
    assert caught.value.samples == [10 * step + 2 for step in [*range(0, 900, 100), 999]]


def test_a_window_forgets(tmp_path: Path) -> None:
    made = Anomalies(plan(total=5000), run_folder(tmp_path), [])
    for step in range(0, 5000, 112):  # nine in any thousand
        _skip(made, step, 2)
    assert len(made.log) == 9


def test_a_row_goes_on_after_a_break(tmp_path: Path) -> None:
    """The steps skipped before a checkpoint count after it."""
    made = Anomalies(plan(max_skips=3), run_folder(tmp_path), [(4, [1]), (6, [61]), (7, [72])])
    assert made.in_row == 2
    with pytest.raises(TooManySkipsError, match="3 steps in a row") as caught:
        _skip(made, 8, 0, 1)
    assert (caught.value.begin, caught.value.samples) == (6, [1, 61, 72, 80, 81])


@pytest.mark.parametrize(("bad", "blamed"), [((), []), ((1,), [31]), (range(4), [30, 31, 32, 33])])
def test_who_is_to_blame(tmp_path: Path, bad: Any, blamed: list[int]) -> None:
    made = Anomalies(plan(), run_folder(tmp_path), [])
    _skip(made, 3, *bad)
    assert made.log == [(3, blamed)]


def test_most_of_a_batch_is_no_sample(tmp_path: Path) -> None:
    made = Anomalies(plan(), run_folder(tmp_path), [])
    _skip(made, 3, *range(5))
    assert made.log == [(3, [])]
    assert len(read_jsonl(tmp_path / "anomalies.jsonl")[0]["samples"]) == 5


def _train(run: RunFolder, stream: Any, **more: Any) -> Any:
    made = state()
    with StopRequest() as stop:
        train(made, stream, plan(**more), run, stop)
    return made


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_stay_finite_whatever_comes(tmp_path: Path, value: float) -> None:
    """Not a number in a sample, in the gradients, and infinity, each at a step of its own."""
    made = state()
    with pytest.MonkeyPatch.context() as patch, injected(patch) as faults:
        first = made.method.linear.weight
        handles = []

        def spoil() -> None:
            handles.append(first.register_hook(lambda g: g * value))

        def repair() -> None:
            handles.pop().remove()

        faults.at(3, spoil)
        faults.at(4, repair)

        def stream() -> Any:
            for step, one in enumerate(batches()):
                if step == 7:
                    one["image"][2] = value
                yield one

        with StopRequest() as stop:
            train(made, stream(), plan(), run_folder(tmp_path), stop)
    rows = read_jsonl(tmp_path / "anomalies.jsonl")
    assert [(r["step"], r["what"], r["samples"]) for r in rows] == [
        (3, "Gradient", []),
        (7, "Loss", ["7/2.png"]),
    ]
    assert all(bool(torch.isfinite(t).all()) for t in bits(made).values())
    assert float(bits(made)["ema.count"]) == 10


def test_weights_that_are_not_finite_are_never_trained(tmp_path: Path) -> None:
    made = state()
    with torch.no_grad():
        made.method.linear.bias[0] = torch.nan
    before = bits(made)
    assert float(training_step(made, batch(0), plan())["skipped"]) == 1
    after = bits(made)
    assert {n: t for n, t in after.items() if "linear.bias" not in n}.keys() >= {"scale"}
    assert torch.equal(after["linear.weight"], before["linear.weight"])
    made.step = 0
    with pytest.raises(TooManySkipsError), StopRequest() as stop:
        train(made, batches(), plan(max_skips=3), run_folder(tmp_path), stop)


def test_no_save_between_bad_steps(tmp_path: Path) -> None:
    """The weights are those of the last good step, from which the run may have to start again."""
    run = run_folder(tmp_path)
    _train(run, batches(0, frozenset({4, 5, 6})), save_every=2, keep=9)
    names = sorted(p.name for p in run.checkpoints.iterdir())
    assert names == [f"step_{s:08d}" for s in (2, 4, 8, 10, 12)]


def _spiky(at: int, factor: float) -> Any:
    for step, one in enumerate(batches()):
        if step == at:
            one["image"] *= factor
        yield one


def test_a_spike_is_only_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, calm = run_folder(tmp_path / "spike"), run_folder(tmp_path / "calm")
    made = _train(run, _spiky(80, 100.0), total=120, save_every=1000)
    said = capsys.readouterr().err
    rows = read_jsonl(run.path / "anomalies.jsonl")
    assert (rows[0]["what"], rows[0]["step"]) == ("Spike", 80)
    assert rows[0]["batch"] == [f"80/{row}.png" for row in range(ROWS)]
    assert rows[0]["loss"] > 100 * rows[0]["median"]
    assert said.count("spike") == 1
    assert "at step 80" in said
    assert made.step == 120
    assert all(r["skipped"] == 0 and 0 < r["loss"] < 1e9 for r in read_jsonl(run.metrics))
    _train(calm, batches(), total=120, save_every=1000)
    assert not (calm.path / "anomalies.jsonl").exists()


def test_a_spike_changes_nothing_that_follows(tmp_path: Path) -> None:
    """It is a step like any other: the one that reports and one that cannot end alike."""
    found = []
    for losses in (50, 10**6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("openmae.engine.anomalies._FEWEST", losses)
            run = run_folder(tmp_path / str(losses))
            found.append(bits(_train(run, _spiky(60, 100.0), total=70, save_every=1000)))
            assert (run.path / "anomalies.jsonl").exists() is (losses == 50)
    assert_equal_bits(*found)
