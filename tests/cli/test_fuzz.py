"""300 random option sets for each command: whatever is typed, an answer and never a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import object_files
import pytest
from PIL import Image

from openmae.config import TASKS, settings
from openmae.config.base import extra_of
from openmae.errors import UsageError

COUNT = 150
NASTY = (
    "", "-1", "0", "1e999", "nan", "inf", "true", "False", "none", "x", "é", "a b", "0.5", "-0.0",
    "1_000", "0x10", "[1]", "{}", "*", "..", "=", "'", "1,2", "999999999", "1" + "0" * 30,
    "x" * 300, "\udcff", "\n", "%s", "--", "-",
)  # fmt: skip
GOOD = {
    "model": ("vit_tiny_patch16_224", "vit_tiny_patch16_22", "deit_tiny", "resnet18", "vit_base.x"),
    "dim": ("16", "24", "17"),
    "depth": ("1", "2"),
    "heads": ("1", "2", "3"),
    "decoder_dim": ("16", "18"),
    "decoder_depth": ("1",),
    "decoder_heads": ("2", "3"),
    "image_size": ("8", "16", "16 32", "33", "1"),
    "patch_size": ("2", "4", "8", "2 4", "3"),
    "channels": ("1", "3", "5"),
    "mask": ("random", "block", "grid", "gird", "multiblock", "unit"),
    "mask_unit": ("1", "2", "9"),
    "mask_ratio_end": ("0.5", "0.9", "none"),
    "mask_tokens": ("decoder", "encoder"),
    "registers": ("0", "1", "4"),
    "uniformity": ("0", "0.01"),
    "augment": ("none", "fixed", "crop", "jitter"),
    "mask_ratio": ("0.75", "75", "0.95", "0.05", "0.8"),
    "target": ("pixels", "norm_pixels", "hog", "pca", "features", "tokens", "hogs"),
    "channel_groups": ("1", "1 2-3", "1,2", "x"),
    "group_masks": ("same", "independent", "other"),
    "method": ("mae", "simclr", "byol", "beit", "simcl"),
    "method_args": ("hidden=8", "out=4", "temperature=x", "out"),
    "target_args": (
        "components=4", "cell=2", "cell=x", "cell", "teacher=ema", "layers=9", "codes=3",
        "tokenizer=run",
    ),
    "epochs": ("1", "0.5", "800"),
    "steps": ("1", "100"),
    "batch_size": ("1", "4", "4096", "auto"),
    "micro_batch": ("1", "3", "4", "auto"),
    "betas": ("0.9 0.95", "0.9", "2 3"),
    "weight_decay_end": ("0.4", "none", "-1"),
    "mean": ("0.5", "0.5 0.5 0.5"),
    "std": ("0.5", "0 1 2", "0.2 0.2 0.2"),
    "val": ("0.1", "0.0001", "1.5", "digits", "photos", "nowhere"),
    "device": ("cpu", "cpu:3", "cuda", "cuda:99", "mps", "meta", "xla", "gpu"),
    "precision": ("fp32", "bf16", "fp16"),
    "products": ("auto", "torch", "onednn", "mkl"),
    "on_save_error": ("continue", "stop", "halt"),
    "bad_images": ("skip", "error", "zero"),
    "time_limit": ("5s", "1h30m", "5"),
    "recipe": ("digits", "laptop", "digit", "nowhere.yaml", "thesis.txt"),
    "allow_change": ("lr", "lr,data", "learning", ",,"),
    "init": ("run", "encoder.safetensors", "nowhere", "thesis.txt", "vit_tiny_patch16_224"),
    "workers": ("0", "1", "257"),
    "gpus": ("1", "0", "64"),
    "pool": ("mean", "cls", "max"),
    "images": ("photos", "photos/a/0.png", "digits", "thesis.txt", "nowhere"),
    "filter": ("tiny", "zzz"),
    "l2": ("0.1", "0", "1e-3 1e-2"),
    "k": ("1", "1000"),
    "to": ("official", "hf", "timm", "openmae", "tim"),
    "output": ("auto", "tokens", "logits", "words"),
    "protocol": ("fast", "paper"),
    "layout": ("auto", "folder", "imagenet-c"),
    "labels": ("thesis.txt", "labels.csv", "nowhere.csv"),
    "class_names": ("thesis.txt", "nowhere"),
    "fraction": ("0.5", "1-per-class", "2", "x-per-class"),
    "blocks": ("0", "0.5", "1", "9"),
    "randaug": ("none", "rand-m9-mstd0.5-inc1", "rand-x"),
    "class_weights": ("none", "balanced"),
    "license": ("mit",),
    "push_to_hub": ("",),
    "duplicates": ("d.csv", "d.txt", "nowhere/d.csv"),
    "neighbours": ("n.csv", "n.txt"),
    "map": ("m.png", "m.html", "m.jpg"),
    "command": ("pretrain photos --out runs/x", "knn run photos", "pretain", "doctor", "slurm x"),
    "time": ("24:00:00", "90", "1h", "1-0"),
    "array": ("0-3", "x"),
    "report": ("new.txt", "thesis.txt", "mine"),
    "sbatch": ("qos=high", "a b"),
    "head": ("upernet", "dpt", "linear", "unet"),
    "head_dim": ("8", "4"),
    "masks": ("scenes/masks", "photos", "nowhere", "thesis.txt"),
    "classes": ("a,b", "thesis.txt", "a,a", "nowhere"),
    "palette": ("thesis.txt", "nowhere"),
    "ignore_label": ("auto", "0", "255", "65536"),
    "scale": ("0.5 2", "2 0.5", "1"),
    "scales": ("1", "0.5 1", "0"),
    "schedule": ("poly", "cosine", "step"),
    "jitter": ("0.1 2", "2 1", "1"),
    "global_blocks": ("0", "0 1", "9"),
    "part": ("val", "train", "test"),
    "short_side": ("32", "7"),
    "vary": ("mask_ratio=0.5,0.75", "mask_ratio=75", "maskratio=0.5", "probe.pool=cls", "lr"),
    "seeds": ("1", "0", "3"),
    "budget": ("steps=3", "images=20", "minutes=0.1", "hours=3"),
    "preset": ("fig5", "table1d", "transfer", "fig6"),
    "score": ("knn", "probe", "probe knn", "knn:photos", "knn:nowhere", "accuracy"),
    "score_args": ("probe.pool=cls", "knn.k=3", "k=3", "knn.q=3"),
    "methods": ("mae simclr", "mae=digits", "mae mae", "mea", "simclr=nowhere.yaml"),
    "family": ("digits", "cifar10", "nowhere"),
    "runs": ("run", "photos", "damaged", "nowhere"),
    "jobs": ("1", "2", "0"),
    "hide": ("0-3", "0", "3-1", "99", "x"),
    "video": ("v.webp", "v.gif", "v.mp4", "nowhere/v.gif"),
    "across": ("steps", "ratios", "seeds", "step"),
    "values": ("0.5", "0.5 0.9", "2", "0", "1.5"),
    "patch": ("0,0", "1,1", "cls", "99,0", "1"),
    "step": ("2", "0", "7"),
    "embeddings": ("x.npz", "labels.csv", "nowhere.parquet"),
    "embedded": ("photos", "nowhere"),
    "static": ("x.html", "x.png", "nowhere/x.html"),
    "host": ("127.0.0.1", "localhost", "0.0.0.0", "nowhere.invalid"),
    "port": ("0", "65536", "x"),
    "kind": ("kmeans", "vqvae", "kmean"),
    "codes": ("2", "8", "1"),
    "width": ("1", "4", "0"),
    "hidden": ("1", "8", "0"),
    "axis": ("auto", "steps", "hours", "hour"),
    "figures": ("figures", "thesis.txt", "run"),
    "every": ("5", "0", "1e9"),
    "out": ("new", "mine", "thesis.txt", "run", "/proc/nowhere/x"),
}  # fmt: skip
READ = ("run", "run/encoder.safetensors", "nowhere", "vit_zzz", "thesis.txt", "mine", "damaged")
WRITTEN = (
    "x.npz",
    "x.csv",
    "x.parquet",
    "x.png",
    "x.txt",
    "nowhere/x.npz",
    "nowhere/x.png",
    "x.pth",
    "x.html",
    "x.safetensors",
    "x.onnx",
    "x.pt2",
    "mine",
    "folder",
)
TO_FILE = ("embed", "reconstruct", "attention", "predict", "convert", "export", "report")
SLOW = (
    "pretrain", "finetune", "detect", "segment", "export", "benchmark", "doctor", "ablate",
    "compare", "tokenize", "demo", "report", "watch",
)  # fmt: skip
GRIDS = (("ablate", "--vary", "mask_ratio=0.5,0.75"), ("compare", "--methods", "mae"))
HUGE_IS_SLOW = ("depth", "decoder_depth", "dim", "decoder_dim", "image_size", "channels")


def value(task: str, name: str, rng: random.Random) -> list[str]:
    pool = GOOD.get(name, ("1", "2", "0.5"))
    if task != "pretrain" and name in ("model", "file"):
        pool = READ
    if task.split()[-1] in TO_FILE and name == "out":
        pool = WRITTEN
    if name == "data":
        pool = ("photos", "digits", "nowhere", "thesis.txt", "mine", "photos/a")
        pool = (*pool, "scenes", "scenes") if task.startswith("segment") else pool
        pool = (*pool, *["objects"] * 4) if task.startswith("detect") else pool
    word = rng.choice(pool if rng.random() < 0.8 else NASTY)
    if name in HUGE_IS_SLOW and len(word) > 8:
        word = "-5"
    return word.split() if word in pool else [word]


def option_set(task: str, rng: random.Random) -> list[str]:
    model = settings(task)
    fields = list(model.model_fields)
    places = [n for n in fields if extra_of(model, n)["positional"]]
    words = [w for n in places if rng.random() < 0.95 for w in value(task, n, rng)]
    required = [n for n in fields if model.model_fields[n].is_required() and n not in places]
    others = [n for n in fields if n not in places and n not in required]
    chosen = required + rng.sample(others, min(len(others), rng.choice((0, 1, 2, 3, 5, 8))))
    if task in ("pretrain", "tokenize", "finetune", "detect", "segment"):
        chosen += [n for n in ("recipe", "allow_change") if rng.random() < 0.2]
    for name in chosen:
        flag = "--" + name.replace("_", "-")
        kind = str(model.model_fields[name].annotation) if name in model.model_fields else ""
        if "bool" in kind:
            words += [rng.choice((flag, flag.replace("--", "--no-", 1)))]
        elif rng.random() < 0.03:
            words += [flag[:-1], *value(task, name, rng)]
        elif rng.random() < 0.05:
            words += [flag]
        else:
            words += [flag, *value(task, name, rng)]
    if task == "quickstart":  # it has no dry run: a folder that it refuses stands in for one
        words += ["--out", "mine"]
    if task in ("pretrain", "ablate", "compare"):
        small = "--dim 16 --depth 1 --heads 2 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2"
        pairs = small.split()
        for flag, word in zip(pairs[::2], pairs[1::2], strict=True):
            words += [] if flag in words else [flag, word]
    for name, flag, word in GRIDS:
        words += [flag, word] if task == name and flag not in words and rng.random() < 0.8 else []
    if task in SLOW:  # watch would wait for a run of this name where a "--" stands before it
        words = ["--dry-run", *words] if task == "watch" else [*words, "--dry-run"]
    return [*task.split(), *words]


@pytest.fixture(scope="module")
def world(tiny_run: Path, tmp_path_factory) -> Path:
    """Relative names for the words above: photos, a run, a file and a folder of someone else."""
    root = tmp_path_factory.mktemp("world")
    (root / "photos").symlink_to(tiny_run.parent / "photos")
    (root / "run").symlink_to(tiny_run)
    (root / "thesis.txt").write_text("years: of work")
    object_files.coco(root / "objects")
    (root / "mine").mkdir()
    (root / "mine/thesis.docx").write_text("years of work")
    (root / "encoder.safetensors").write_bytes((tiny_run / "encoder.safetensors").read_bytes())
    (root / "labels.csv").write_text("path,label\na/0.png,x\na/1.png,y\n")
    for folder in ("images", "masks"):
        (root / "scenes" / folder).mkdir(parents=True)
        for i in range(8):
            shown = np.random.default_rng(i).integers(0, 2, (40, 44), dtype=np.uint8)
            Image.fromarray(shown).save(root / "scenes" / folder / f"{i}.png")
    (root / "damaged").mkdir()
    (root / "damaged/encoder.safetensors").write_bytes(b"\0" * 100)
    return root


def no_ranks(*_: object) -> None:
    """Random words must never start processes: a thousand ranks take the machine with them."""
    raise UsageError("ranks are not started here")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("task", sorted(TASKS))
def test_any_options_get_an_answer(task, world, cli, monkeypatch):
    monkeypatch.chdir(world)
    # where the number of GPUs is unknown, 64 ranks would start before one finds that there is none
    monkeypatch.setattr("openmae.launch.plan.count_gpus", lambda: 0)
    monkeypatch.setattr("openmae.cli.launch", no_ranks)
    wrong: list[str] = []
    codes = set()
    for number in range(COUNT):
        words = option_set(task, random.Random(f"{task}/{number}"))
        try:
            said = cli(*words)
        except (Exception, SystemExit) as error:
            wrong.append(f"{type(error).__name__}: {str(error)[:150]} <- {words}")
            continue
        codes.add(said.code)
        allowed = {0, 2} if task == "models" else {0, 2, 3, 4}
        if said.code not in allowed or "Traceback" in said.err + said.out:
            wrong.append(f"exit {said.code}: {said.err[:150]} <- {words}")
        elif said.code and not 1 <= len(said.err.splitlines()) <= 6:
            wrong.append(f"{len(said.err.splitlines())} lines: {said.err[:300]} <- {words}")
    assert not wrong, f"{len(wrong)} of {COUNT}:\n" + "\n".join(wrong[:25])
    assert len(codes) >= 2, "the options must reach more than one kind of answer"
