"""Jobs for an old transformers, run by the Python of its own environment: one JSON a line comes in,
one JSON a line goes out. Tensors travel in safetensors files, because the objects of one version
mean nothing to another.

A job without "config" loads "folder" by from_pretrained; one with it makes a model of random
weights. "kind" is the class, "more" are further arguments of it, "save" is where to write the model
again ("how": arguments of save_pretrained), "inputs" and "outputs" are files of tensors.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Make every weight random, positions, tokens, norms and biases as well, at a scale that keeps
    the activations near 1: the differences of the outputs are then those of rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        matrix = parameter.ndim in (2, 4)
        scale = parameter[0].numel() ** -0.5 if matrix else 0.3
        mean = float("norm" in name and name.endswith("weight"))
        parameter.data.copy_(mean + scale * noise)
    return model.eval()


def numbers(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors among a model's outputs: loss, logits, mask, last_hidden_state."""
    with torch.inference_mode():
        found = model(**inputs)
    return {n: t.contiguous() for n, t in found.items() if isinstance(t, Tensor)}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job; the answer holds the version, and what from_pretrained said of the keys."""
    import transformers

    kind, more, told = getattr(transformers, job["kind"]), job.get("more", {}), {}
    if "config" in job:
        config = kind.config_class(**job["config"])
        model = randomise(kind(config, **more), job["seed"])
    else:
        model, told = kind.from_pretrained(job["folder"], output_loading_info=True, **more)
    if "inputs" in job:
        save_file(numbers(model.eval(), load_file(job["inputs"])), job["outputs"])
    if "save" in job:
        model.save_pretrained(job["save"], **job.get("how", {}))
    told = {n: [str(v) for v in values] for n, values in told.items() if values}
    return {"version": transformers.__version__, "told": told}


def main() -> None:
    """Answer until the input ends."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # a library that prints would spoil the answers
        for line in sys.stdin:
            try:
                answer = work(json.loads(line))
            except Exception:  # the test shows it, and the next job finds the process alive
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
