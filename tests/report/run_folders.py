"""Run folders made by hand, in every state, with hostile names where there can be any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

HOSTILE = "<script>alert(1)</script>\"'&\n\u202e<img src=x onerror=alert(2)>"

CONFIG = {
    "task": "pretrain", "data": f"/data/{HOSTILE}", "out": "runs/x", "method": "mae",
    "model": "vit_tiny_patch16_224", "image_size": 32, "mask_ratio": 0.75, "target": "norm_pixels",
    "batch_size": 64, "lr": 0.004, "seed": 3, "val": "0.1", "channels": 3,
}  # fmt: skip
RESOLVED = {
    "recipe": "laptop", "device": "cpu", "total_steps": 1000, "images": 4000, "data_hash": "ab12",
    "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "precision": "fp32", "threads": 1,
}  # fmt: skip


def row(step: int, **more: object) -> dict:
    """A row of metrics as the loop writes them; the loss is 1 / step, so that it is known."""
    values = {
        "step": step, "images": 64 * step, "epoch": 64 * step / 4000, "loss": 1 / step,
        "grad_norm": 2.0, "lr": 1e-3, "skipped": 0, "images_per_s": 640.0, "data_share": 0.05,
        "bad_images": 0,
    }  # fmt: skip
    return values | more


def jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def run_folder(path: Path, state: str = "done", **status: object) -> Path:
    """A run of 1,000 steps, logged every 10th up to where its state says."""
    last = 1000 if state == "done" else 500
    (path / "pictures").mkdir(parents=True)
    config = {**CONFIG, "resolved": RESOLVED}
    (path / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    told = {"state": state, "step": last, "total": 1000, "reason": "", "exit_code": None, "pid": 1}
    (path / "status.json").write_text(json.dumps(told | status))
    (path / "environment.json").write_text(json.dumps({"versions": {"torch": "2.10"}, "cpu": "x"}))
    rows = []
    for step in range(10, last + 1, 10):
        rows.append(row(step, feature_spread=0.5))
        if step % 250 == 0:
            rows.append({"step": step, "val_loss": 2 / step, "knn_accuracy": 0.4})
            rows[-1]["knn_majority"] = 0.1
            colours = np.full((30, 40, 3), step % 256, dtype=np.uint8)
            Image.fromarray(colours).save(path / f"pictures/step_{step:08d}.png")
    jsonl(path / "metrics.jsonl", rows)
    spike = {"step": 300, "what": "Spike", "loss": 9.0, "median": 1.0, "batch": [HOSTILE]}
    jsonl(path / "anomalies.jsonl", [spike])
    jsonl(path / "restarts.jsonl", [{"step": 200, "time": 1.0}])
    jsonl(path / "bad_files.jsonl", [{"path": HOSTILE, "reason": "no <b>image</b>"}])
    probe = path / "probe-labelled"
    probe.mkdir()
    scores = {"probe_accuracy": 0.789, "majority_accuracy": 0.21, "probe_low_95": 0.77}
    scores |= {"probe_high_95": 0.81, "random_weights_probe_accuracy": 0.384, "n": 460, "seed": 0}
    (probe / "results.json").write_text(json.dumps(scores))
    return path
