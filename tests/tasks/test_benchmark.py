"""`openmae benchmark`: its structure, arithmetic and decisions; no time is asserted."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_options import TINY

from openmae.cli import main
from openmae.config.benchmark import BenchmarkConfig
from openmae.config.pretrain import PretrainConfig
from openmae.data.sources import open_source
from openmae.errors import UsageError
from openmae.tasks import benchmark
from openmae.tasks.benchmarklines import suggestion

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SMALL = [w for pair in zip(TINY[::2], TINY[1::2], strict=True) for w in pair
         if pair[0] not in ("--warmup-epochs", "--workers", "--batch-size")]  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Timings of no length: one step a window, a search of three batches."""
    for name, value in {"_SECONDS": 0.0, "_LOADER_SECONDS": 0.0, "_WINDOWS": 1, "_MOST": 8}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "_FIRST", {"cpu": 2, "cuda": 2})
    monkeypatch.setattr(benchmark, "matmul_rate", lambda *_, **__: 1e11)


def _json(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["benchmark", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_given_batch_and_what_is_derived_of_it(quick, capsys, tmp_path):
    out = tmp_path / "b.json"
    found = _json(capsys, *SMALL, "--batch-size", 4, "-o", out)
    (row,) = found["trials"]
    assert row == found["best"]
    assert row["batch_size"] == 4
    assert row["images_per_s"] == pytest.approx(4 / row["step_s"])
    assert row["tflops"] == pytest.approx(
        row["images_per_s"] * found["train_gflop_per_image"] / 1e3
    )
    assert row["mfu_matmul"] == pytest.approx(row["tflops"] / 0.1)
    assert row["mfu_data_sheet"] is None
    assert row["peak_bytes"] > 0
    assert found["machine"]["versions"]["torch"]
    assert set(found["attention"].values()) <= {"eager", "sdpa"}
    assert "loader" not in found
    assert json.loads(out.read_text()) == found


def test_nothing_is_written_unless_asked(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *SMALL, "--batch-size", "2"]) == 0
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    for head in ("Machine", "Step", "Suggest"):
        assert head in said
    assert "--batch-size auto looks for a better batch" in said


def test_a_search_doubles(quick, capsys):
    found = _json(capsys, *SMALL, "--batch-size", "auto")
    sizes = [row["batch_size"] for row in found["trials"]]
    assert sizes == [2, 4, 8][: len(sizes)]
    assert found["best"] in found["trials"]


def test_the_loader_beside_the_step(quick, capsys, make_images, tmp_path):
    photos = make_images(tmp_path / "photos")
    found = _json(capsys, photos, *SMALL, "--batch-size", 2, "--workers", 0, 1)
    assert [row["workers"] for row in found["loader"]] == [0, 1]
    assert all(row["images_per_s"] >= 0 for row in found["loader"])
    assert found["limit"] in ("loader", "step")
    assert found["packed"] is False


def test_a_variant_and_a_recipe(quick, capsys):
    found = _json(capsys, "--recipe", "digits", "--decoder", "cross", "--predict", 0.5,
                  "--masks", 2, "--batch-size", 2)  # fmt: skip
    assert found["image_size"] == [8, 8]
    assert found["trials"]


def test_a_dry_run_measures_nothing(capsys):
    found = _json(capsys, "--model", "vit_large_patch16_224", "--dry-run")
    assert found["dry_run"]
    assert found["train_gflop_per_image"] == pytest.approx(124.2, abs=0.06)
    assert "trials" not in found


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 3, "does not exist"),
        (["--image-size", "230"], 2, "Nearest: 224 or 240"),
        (["--mask-ratio", "75"], 2, "0.75?"),
        (["--recipe", "laptoop"], 2, "Did you mean laptop?"),
        (["--model", "vit_bse_patch16_224"], 2, "vit_base_patch16_224"),
        (["-o", "nowhere/x.json"], 4, "does not exist"),
        (["--workers", "999"], 2, "0 to 256"),
        (["--predict", "0.5"], 2, "cross"),
        (["--value-range", "2"], 2, "LOW:HIGH"),
        (["--bands", "0"], 2, "counted from 1"),
    ],
)
def test_mistakes(words, code, said, capsys):
    assert main(["benchmark", *words]) == code
    text = capsys.readouterr().err
    assert said in text
    assert len(text.splitlines()) <= 4


def test_out_of_memory_at_the_first_batch(quick, capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(benchmark, "training_step", full)
    assert main(["benchmark", *SMALL, "--batch-size", "4"]) == 5
    assert "4 images at a time do not fit" in capsys.readouterr().err


def test_the_settings_are_those_of_pretrain():
    """What decides a step of pretraining can be given here, with the same default."""
    own, theirs = BenchmarkConfig.model_fields, PretrainConfig.model_fields
    model = {n for n, f in theirs.items() if f.json_schema_extra["panel"] == "Model"}
    others = {"method", "method_args"}  # it measures steps of mae alone, and says so
    assert model - {"init", "progressive"} - others <= own.keys()
    for name in own.keys() & theirs.keys() - {"data", "batch_size", "workers", "steps"}:
        assert own[name].default == theirs[name].default, name


def test_recipes_keep_what_decides_the_step():
    recipe = {"model": "vit_tiny_patch16_224", "batch_size": 64, "lr": 1.0, "steps": 3, "epochs": 9}
    assert BenchmarkConfig.reworded(recipe, str, typed=False) == {"model": "vit_tiny_patch16_224"}
    with pytest.raises(UsageError, match="the recipe is of simclr"):
        BenchmarkConfig.reworded({"method": "simclr"}, str, typed=False)
    assert BenchmarkConfig.reworded({"batch_size": "AUTO"}, str, typed=True) == {"batch_size": None}


def _limit(step, rates, device, packed=False):
    digits = open_source("digits")
    found = benchmark._limit(step, rates, digits, device)
    rows = [{"workers": n, "images_per_s": r} for n, r in rates.items()]
    trial = {"batch_size": 8, "images_per_s": step, "peak_bytes": 10**9}
    return found | {"packed": packed, "loader": rows, "trials": [trial], "best": trial,
                    "machine": {"cpus": 8}}  # fmt: skip


def test_the_loader_as_the_limit():
    found = _limit(1000.0, {1: 200.0, 4: 400.0}, CUDA)
    assert (found["limit"], found["workers"]) == ("loader", 4)
    assert found["waiting"] == pytest.approx(0.6)
    assert suggestion(found).startswith("--workers 8; openmae pack")
    more = _limit(1000.0, {1: 200.0, 4: 400.0, 8: 300.0}, CUDA, packed=True)
    assert suggestion(more).startswith("--workers 4; --repeats 2")


def test_the_step_as_the_limit():
    found = _limit(100.0, {1: 200.0, 4: 400.0}, CUDA)
    assert (found["limit"], found["waiting"]) == ("step", 0.0)
    assert suggestion(found) == "--batch-size auto looks for a better batch"
    small = {"batch_size": 4, "images_per_s": 50.0, "peak_bytes": 1}
    found["trials"] = [small, *found["trials"]]
    assert suggestion(found).startswith("--micro-batch 8, in 1.0 GB: 2.00 times as fast as 4")


def test_on_a_cpu_loading_comes_on_top():
    found = _limit(100.0, {0: 300.0, 2: 500.0}, CPU)
    assert (found["limit"], found["workers"]) == ("step", 0)
    assert found["waiting"] == pytest.approx(0.25)
    found = _limit(100.0, {0: 50.0, 2: 90.0}, CPU)
    assert found["limit"] == "loader"
    assert "--workers" not in suggestion(found)
