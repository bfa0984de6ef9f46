"""The same checks on every device: on CUDA where there is one, and always on the CPU."""

from __future__ import annotations

import pytest
import torch

import openmae
from openmae.engine.device import autocast

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 3e-2)])
def test_loss_of_a_device_agrees_with_float64(device, precision, bound):
    torch.manual_seed(0)
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 4}
    model = openmae.MAE(
        "vit_tiny_patch16_224", 32, 4, 3, sizes, decoder_dim=32, decoder_depth=2, decoder_heads=4
    )
    images, noise = torch.rand(8, 3, 32, 32), torch.rand(8, 64)
    with torch.no_grad():
        exact = float(model.double()(images.double(), noise=noise)["loss"])
        model.float().to(device)
        with autocast(precision, torch.device(device)):
            loss = float(model(images.to(device), noise=noise.to(device))["loss"])
    assert abs(loss - exact) <= bound * exact


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_run_that_was_stopped_ends_with_the_same_loss(device, tmp_path):
    words = {"data": "digits", "recipe": "digits", "steps": 6, "device": device, "workers": 0}
    words |= {"dim": 16, "depth": 1, "heads": 2, "deterministic": True, "batch_size": 32}
    whole = openmae.pretrain(**words, out=tmp_path / "whole")
    stopped = openmae.pretrain(**words, out=tmp_path / "parts", time_limit="0s")
    assert stopped.exit_code == 75
    parts = openmae.pretrain(**words, out=tmp_path / "parts")
    assert parts["loss"] == whole["loss"]
