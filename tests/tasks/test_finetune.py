"""Fine-tuning as a user does it: the run folder, exact resume, few labels, partial, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import openmae
from openmae.cli import main
from openmae.methods.classify import Classifier

FAST = [
    "--steps",
    "6",
    "--batch-size",
    "4",
    "--warmup-epochs",
    "0",
    "--recipe",
    "small",
    "--workers",
    "0",
    "--randaug",
    "none",
    "--eval-every",
    "0.5",
]


@pytest.fixture(scope="module")
def tuned(trained: Path, classes: Path, run, tmp_path_factory) -> Path:
    """The folder of a fine-tuning of six steps."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    run("finetune", trained, classes, "--out", out, *FAST)
    return out


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def tensors(folder: Path, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoints/step_{step:08d}/weights.safetensors")


def test_a_run_folder_with_a_report(tuned, classes):
    found = results(tuned)
    assert found["n"] + found["n_train"] == 30
    assert 0 <= found["low_95"] <= found["accuracy"] <= found["high_95"] <= 1
    assert found["seed"] == 0
    assert found["steps"] == 6
    assert (tuned / "per_class.csv").read_text().count("\n") == 4
    assert (tuned / "pictures/confusion.png").stat().st_size > 1000
    assert (tuned / "pictures/loss.png").exists()
    model = openmae.load(tuned)
    assert isinstance(model, Classifier)
    assert model.classes == ["ant", "bee", "cat"]
    assert not model.training


def test_its_encoder_loads_strictly_by_its_timm_call(tuned):
    import timm
    from safetensors import safe_open

    with safe_open(tuned / "encoder.safetensors", "pt") as file:
        metadata = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    vit = timm.create_model(**json.loads(metadata["timm"]))
    vit.load_state_dict(stored, strict=True)
    images = torch.randn(2, 3, 32, 32)
    expected = openmae.load(tuned).logits(images)
    assert torch.equal(vit.eval()(images), expected)
    assert json.loads(metadata["classes"]) == ["ant", "bee", "cat"]


def test_it_starts_from_the_encoder_with_a_fresh_head(trained, classes, run, tmp_path):
    out = tmp_path / "run"
    run("finetune", trained, classes, "--out", out, *FAST, "--lr", "1e-12", "--blocks", 0)
    own, before = openmae.load(out).encoder.vit, openmae.load(trained).encoder.vit
    for name, tensor in before.state_dict().items():
        if not name.startswith("norm."):
            assert torch.equal(own.state_dict()[name], tensor), name
    assert "norm.weight" not in own.state_dict()
    assert float(own.head.weight.detach().std()) < 4e-5


def test_stopped_and_continued_is_to_the_bit(trained, classes, tuned, tmp_path, monkeypatch):
    from openmae.tasks import running

    out = tmp_path / "run"
    whole = running.train
    seen = []

    def stops(state, batches, plan, folder, stop, evaluate=None, at=frozenset(), track=None):
        if not seen:
            seen.append(1)
            stop.reason = lambda: "a test" if state.step == 3 else None
        return whole(state, batches, plan, folder, stop, evaluate, at, track)

    monkeypatch.setattr(running, "train", stops)
    words = ["finetune", str(trained), str(classes), "--out", str(out), *FAST]
    assert main(words) == 75
    assert main(words) == 0
    first, second = tensors(tuned), tensors(out)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert results(tuned)["accuracy"] == results(out)["accuracy"]


def test_a_finished_run_says_so(tuned, trained, classes, run):
    assert "finished at step 6" in run("finetune", trained, classes, "--out", tuned, *FAST)


def test_micro_batches_change_nothing(trained, classes, run, tuned, tmp_path):
    run("finetune", trained, classes, "--out", tmp_path / "run", *FAST, "--micro-batch", 2)
    first, second = tensors(tuned), tensors(tmp_path / "run")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_partial_training_changes_the_last_block_only(trained, classes, run, tmp_path):
    run("finetune", trained, classes, "--out", tmp_path / "run", *FAST, "--blocks", 0.5)
    before = openmae.load(trained).encoder.vit.state_dict()
    after = openmae.load(tmp_path / "run").encoder.vit.state_dict()
    changed = {n for n in before.keys() & after.keys() if not torch.equal(before[n], after[n])}
    assert changed == {
        *(f"blocks.0.norm2.{p}" for p in ("weight", "bias")),
        *(f"blocks.0.mlp.fc{i}.{p}" for i in (1, 2) for p in ("weight", "bias")),
    }


def test_another_size_resizes_the_positions(trained, classes, run, tmp_path):
    text = run(
        "finetune", trained, classes, "--out", tmp_path / "run", *FAST, "--image-size", 48, 64
    )
    assert "Position table 4x4 resized to 6x8 (bicubic)" in text
    assert openmae.load(tmp_path / "run").encoder.grid == (6, 8)


def test_few_labels_and_averaged_weights_and_class_weights(trained, classes, run, tmp_path):
    out = tmp_path / "run"
    words = ["--fraction", "2-per-class", "--ema", 0.9, "--class-weights", "balanced"]
    text = run("finetune", trained, classes, "--out", out, *FAST, *words)
    assert "6 images" in text
    assert results(out)["n_train"] == 6
    assert any(name.startswith("ema.") for name in tensors(out))


def test_the_same_recipe_from_random_weights_beside_it(trained, classes, run, tmp_path):
    out = tmp_path / "run"
    words = ["finetune", trained, classes, "--out", out, *FAST, "--baseline"]
    text = run(*words)
    assert "Compare" in text
    assert re.search(r"\nBaseline +the same recipe from random weights", text)
    found = results(out)
    assert found["random_weights_accuracy"] == results(out / "random-weights")["accuracy"]
    assert "finished" in run(*words)


def test_digits_of_one_channel(run, tmp_path):
    words = ["--recipe", "digits", "--steps", 3, "--batch-size", 8, "--warmup-epochs", 0]
    model = ["--dim", 16, "--depth", 1, "--heads", 2, "--decoder-dim", 16, "--decoder-depth", 1]
    small = [*model, "--decoder-heads", 2, "--workers", 0]
    run("pretrain", "digits", "--out", tmp_path / "run", *words, *small)
    run("finetune", tmp_path / "run", "digits", *words, "--workers", 0)
    assert results(tmp_path / "run/finetune-digits")["n"] == 360


SEVERAL = ["--labels", "t.csv", "--multi-label", "--mixup", "0", "--cutmix", "0"]
SEVERAL += ["--smoothing", "0"]


def test_rare_labels_weigh_more(trained, classes, run, tmp_path):
    """Of several labels an image: ant on all images, bee on every fifth."""
    files = sorted(p.relative_to(classes).as_posix() for p in classes.rglob("*.png"))
    parts = ["test" if i % 3 == 0 else "train" for i in range(len(files))]
    names = ["ant;bee" if i % 5 == 0 else "ant" for i in range(len(files))]
    lines = [",".join(row) for row in zip(files, names, parts, strict=True)]
    (tmp_path / "t.csv").write_text("path,label,split\n" + "\n".join(lines))
    words = [*FAST, *SEVERAL, "--class-weights", "balanced"]
    words[words.index("t.csv")] = str(tmp_path / "t.csv")
    run("finetune", trained, classes, "--out", tmp_path / "run", *words)
    rare = sum(p == "train" and "bee" in n for p, n in zip(parts, names, strict=True))
    both = [20, rare]
    expected = [sum(both) / (2 * n) for n in both]
    made = openmae.load(tmp_path / "run")
    assert made.class_weights.tolist() == pytest.approx(expected, rel=1e-6)
    assert 0 < results(tmp_path / "run")["mAP"] <= 1


def test_a_setting_that_the_run_began_without(tuned, trained, classes, capsys):
    words = ["finetune", str(trained), str(classes), "--out", str(tuned), *FAST, "--blocks", "1"]
    assert main(words) == 4
    assert "was begun without --blocks, asked for 1. Drop it" in capsys.readouterr().err
    assert main(words[:-2]) == 0


MISTAKES = {
    "one class": (["MODEL", "ONE"], 3, "needs >= 2"),
    "one class left": (["MODEL", "TWO"], 3, "holds one only (1 images): more images"),
    "turned round": (["DATA", "MODEL"], 3, "Turn them round: MODEL DATA"),
    "twice": (["MODEL", "MODEL"], 3, "The model comes first, then the images"),
    "no data": (["MODEL", "NOWHERE"], 3, "does not exist"),
    "no model": (["runs/nowhere", "DATA"], 4, "does not exist"),
    "blocks": (["MODEL", "DATA", "--blocks", "9"], 2, "--blocks 9: give 0 to 1"),
    "quarter": (["MODEL", "DATA", "--blocks", "0.25"], 2, "or a half"),
    "fraction": (["MODEL", "DATA", "--fraction", "half"], 2, "10-per-class"),
    "too few": (["MODEL", "DATA", "--fraction", "50-per-class"], 3, "asks for 50-per-class"),
    "randaug": (["MODEL", "DATA", "--randaug", "strong"], 2, "rand-m9-mstd0.5-inc1"),
    "odd": (["MODEL", "DATA", "--batch-size", "5"], 2, "--mixup 0 --cutmix 0"),
    "shots": (["MODEL", "DATA", *SEVERAL, "--fraction", "5-per-class"], 2, "Give a share, 0.1"),
    "labels": (["MODEL", "DATA", "--multi-label"], 2, "--labels FILE.csv"),
    "size": (["MODEL", "DATA", "--image-size", "30"], 2, "32"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, trained, classes, make_images, tmp_path, capsys):
    words, code, text = MISTAKES[name]
    one = tmp_path / "one"
    make_images(one / "all", 10)
    for kind in "ab":  # one of the two falls into the test part
        make_images(tmp_path / "two" / kind, 1)
    places = {"MODEL": trained, "DATA": classes, "ONE": one, "NOWHERE": tmp_path / "no"}
    places |= {"TWO": tmp_path / "two"}
    for word in ("MODEL", "DATA"):
        text = text.replace(word, str(places[word])) if name == "turned round" else text
    given = [str(places.get(w, w)) for w in words]
    pairs = [FAST[i : i + 2] for i in range(0, len(FAST), 2)]
    extra = [word for pair in pairs if pair[0] not in words for word in pair]
    before = sorted(trained.iterdir())
    assert main(["finetune", *given, *extra, "--out", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 4
    assert not (tmp_path / "out").exists()
    assert sorted(trained.iterdir()) == before


def test_a_change_of_the_architecture_is_refused(tuned, trained, classes, capsys):
    words = ["finetune", str(trained), str(classes), "--out", str(tuned), *FAST, "--pool", "cls"]
    assert main(words) == 4
    assert "--pool mean" in capsys.readouterr().err


def test_the_folder_of_another_task_is_refused(trained, classes, capsys):
    assert main(["finetune", str(trained), str(classes), "--out", str(trained), *FAST]) == 4
    assert "is a run of `openmae pretrain`" in capsys.readouterr().err


def test_dry_run_writes_nothing(trained, classes, run, tmp_path):
    run("finetune", trained, classes, "--out", tmp_path / "out", *FAST, "--dry-run")
    assert not (tmp_path / "out").exists()
