"""What the options of pretrain do to a run, on tiny images."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

import openmae
from openmae.config.pretrain import PretrainConfig

DESIGN = {
    "config.yaml", "metrics.jsonl", "environment.json", "status.json", "checkpoints",
    "encoder.safetensors", "results.json", "pictures",
}  # fmt: skip


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = max((folder / "checkpoints").iterdir())
    return load_file(last / "weights.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture
def photos(make_images, tmp_path) -> Path:
    return make_images(tmp_path / "photos", 10)


def test_the_run_folder_holds_what_is_promised(trained):
    names = {p.name for p in trained.iterdir()}
    assert names >= DESIGN
    for step in (trained / "checkpoints").iterdir():
        assert {p.name for p in step.iterdir()} == {
            "weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json",
        }  # fmt: skip
    status = read(trained, "status.json")
    assert (status["state"], status["step"], status["total"]) == ("done", 3, 3)
    assert status["exit_code"] == 0
    results = read(trained, "results.json")
    assert all(isinstance(v, (int, float)) for v in results.values())  # flat
    assert (results["n"], results["seed"], results["steps"]) == (30, 0, 3)
    machine = read(trained, "environment.json")
    assert machine["versions"]["torch"] == importlib.metadata.version("torch")
    assert machine["threads"] == torch.get_num_threads()
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config.keys() == {"task", "resolved", *PretrainConfig.model_fields}
    assert config["resolved"]["recipe"] == "laptop"


def test_config_yaml_is_a_recipe_of_the_same_run(run, trained, classes, tmp_path):
    new = tmp_path / "new"
    run("pretrain", "--recipe", trained / "config.yaml", classes, "--out", new)
    assert equal(weights(new), weights(trained))
    assert (new / "encoder.safetensors").read_bytes() == (
        trained / "encoder.safetensors"
    ).read_bytes()
    first, second = (yaml.safe_load((f / "config.yaml").read_text()) for f in (trained, new))
    for config in (first, second):
        del config["resolved"]["recipe"], config["out"]
    assert first == second


def test_another_seed_is_another_run(run, trained, classes, tmp_path):
    new = tmp_path / "new"
    run("pretrain", "--recipe", trained / "config.yaml", classes, "--out", new, "--seed", 1)
    assert not equal(weights(new), weights(trained))
    assert read(new, "results.json")["seed"] == 1


def test_val_fraction_is_held_out_and_has_fixed_masks(run, photos, tiny, tmp_path):
    options = [*tiny, "--steps", 4, "--val", "0.3", "--lr", "1e-30", "--weight-decay", "0"]
    run("pretrain", photos, "--out", tmp_path / "run", *options, "--eval-every", "0.3")
    values = [r["val_loss"] for r in rows(tmp_path / "run") if "val_loss" in r]
    assert len(values) >= 2
    assert len(set(values)) == 1  # the weights stand still, and so must the masks
    results = read(tmp_path / "run", "results.json")
    assert results["val_loss"] == values[-1]
    assert 0 < results["n"] < 10


def test_val_folder(run, photos, tiny, make_images, tmp_path):
    held_out = make_images(tmp_path / "held", 3, first=50)
    run("pretrain", photos, "--out", tmp_path / "run", *tiny, "--steps", 4, "--val", held_out)
    values = [r["val_loss"] for r in rows(tmp_path / "run") if "val_loss" in r]
    assert len(values) == 4
    assert len(set(values)) > 1  # the weights move
    assert read(tmp_path / "run", "results.json")["n"] == 10


def test_looking_does_not_disturb_the_run(run, trained, classes, make_images, tmp_path):
    held_out, new = make_images(tmp_path / "held", 3), tmp_path / "new"
    recipe = ("--recipe", trained / "config.yaml")
    more = ("--val", held_out, "--eval-every", "0.1", "--knn", "--log-every", 1)
    run("pretrain", *recipe, classes, "--out", new, *more, "--save-every", 2)
    assert equal(weights(new), weights(trained))


def test_knn_on_the_way(run, classes, tiny, tmp_path):
    run("pretrain", classes, "--out", tmp_path / "run", *tiny, "--steps", 2, "--knn")
    found = [r for r in rows(tmp_path / "run") if "knn_accuracy" in r]
    assert len(found) == 2
    results = read(tmp_path / "run", "results.json")
    assert 0 <= results["knn_accuracy"] <= 1
    assert results["knn_majority"] == found[-1]["knn_majority"]


def test_ema_is_the_average_of_the_weights_after_each_step(run, photos, tiny, tmp_path):
    decay, folder = 0.6, tmp_path / "run"
    options = ["--steps", 4, "--save-every", 1, "--keep", 9, "--ema", decay]
    run("pretrain", photos, "--out", folder, *tiny, *options)
    steps = [
        load_file(p / "weights.safetensors") for p in sorted((folder / "checkpoints").iterdir())
    ]
    name = "encoder.vit.blocks.0.mlp.fc1.weight"
    average = steps[0][f"ema.{name}"].double()
    for count, step in enumerate(steps[1:], start=1):
        now = min(decay, (1 + count) / (10 + count))
        average = now * average + (1 - now) * step[name].double()
        torch.testing.assert_close(step[f"ema.{name}"].double(), average, rtol=1e-5, atol=1e-7)
    with safe_open(folder / "encoder.safetensors", framework="pt") as file:
        assert file.metadata()["weights"] == "ema"
        short = name.removeprefix("encoder.vit.")
        assert torch.equal(file.get_tensor(short), steps[-1][f"ema.{name}"])
        assert not torch.equal(file.get_tensor(short), steps[-1][name])


def test_without_ema_the_encoder_file_says_raw(trained):
    with safe_open(trained / "encoder.safetensors", framework="pt") as file:
        assert file.metadata()["weights"] == "raw"
        tensor = file.get_tensor("blocks.0.mlp.fc1.weight")
    assert torch.equal(tensor, weights(trained)["encoder.vit.blocks.0.mlp.fc1.weight"])


def test_tensorboard_files(run, photos, tiny, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    track = ["--track", "tensorboard", "--log-every", 1]
    run("pretrain", photos, "--out", folder, *tiny, "--steps", 3, *track)
    events = reader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    logged = [(e.step, e.value) for e in events.Scalars("loss")]
    own = [(r["step"], r["loss"]) for r in rows(folder) if "loss" in r]
    assert [s for s, _ in logged] == [1, 2, 3]
    assert [v for _, v in logged] == pytest.approx([v for _, v in own])


def test_init_starts_from_the_weights_of_another_run(run, trained, photos, tiny, tmp_path):
    for source in (trained, trained / "encoder.safetensors"):
        folder = tmp_path / source.stem
        still = ["--steps", 1, "--init", source, "--lr", "1e-30", "--weight-decay", 0]
        run("pretrain", photos, "--out", folder, *tiny, *still)
        assert equal(
            openmae.load(folder).encoder.vit.state_dict(),
            openmae.load(trained).encoder.vit.state_dict(),
        )


def test_init_of_another_architecture_is_refused_and_leaves_nothing(
    trained, photos, tiny, tmp_path
):
    from openmae.cli import main

    words = ["pretrain", photos, "--out", tmp_path / "run", *tiny, "--dim", 32, "--init", trained]
    assert main([str(w) for w in words]) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    ["--mask block", "--mask grid", "--target pixels", "--mask-ratio 0.5", "--flip", "--crop 1"],
)
def test_masks_and_targets_are_recorded_and_loaded(options, run, photos, tiny, tmp_path):
    run("pretrain", photos, "--out", tmp_path / "run", *tiny, "--steps", 1, *options.split())
    model = openmae.load(tmp_path / "run")
    name, *value = options.removeprefix("--").split()
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert str(config[name.replace("-", "_")]) in (value[0] if value else "True", "1.0")
    if name in ("mask", "target"):
        assert getattr(model, name) == value[0]
    if name == "mask-ratio":
        assert model.mask_ratio == 0.5


def test_micro_batches_give_the_same_step(run, photos, tiny, tmp_path):
    run("pretrain", photos, "--out", tmp_path / "one", *tiny, "--steps", 2)
    run("pretrain", photos, "--out", tmp_path / "four", *tiny, "--steps", 2, "--micro-batch", 1)
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-3, atol=2e-5)
    first, second = (rows(tmp_path / n)[0]["loss"] for n in ("one", "four"))
    assert first == pytest.approx(second, rel=1e-5)


def test_clip_limits_the_step_and_logs_the_norm_before_it(run, photos, tiny, tmp_path):
    plain, clipped = tmp_path / "plain", tmp_path / "clipped"
    run("pretrain", photos, "--out", plain, *tiny, "--steps", 1)
    run("pretrain", photos, "--out", clipped, *tiny, "--steps", 1, "--clip", "1e-3")
    assert rows(clipped)[0]["grad_norm"] == pytest.approx(rows(plain)[0]["grad_norm"])
    moments = [
        load_file(f / "checkpoints/step_00000001/optimizer.safetensors") for f in (plain, clipped)
    ]
    name = "encoder.vit.norm.weight/exp_avg"
    ratio = 1e-3 / rows(plain)[0]["grad_norm"]
    torch.testing.assert_close(moments[1][name], moments[0][name] * ratio, rtol=1e-3, atol=1e-9)
