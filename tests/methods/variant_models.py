"""Small float64 models of the cheaper variants, and how two training steps are compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods import MAE
from openmae.randomness import Rand

BATCH, LENGTH, HIDDEN = 4, 24, 18
CROSS = {"decoder": "cross"}
FUSED = {"decoder": "cross", "fusion": True}


def tiny(**arguments) -> MAE:
    """A small float64 model with random weights, in training mode."""
    given = {
        "encoder": "vit_tiny_patch16_224", "image_size": (32, 48), "patch_size": 8,
        "encoder_args": {"embed_dim": 32, "depth": 3, "num_heads": 2},
        "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MAE(**(given | arguments)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
                parameter.add_(0.2 * noise)
    return model


def pictures(model: MAE, batch: int = BATCH, size: tuple[int, int] | None = None) -> Tensor:
    shape = (batch, model.encoder.in_chans, *(size or model.encoder.image_size))
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rand(rows: int = BATCH, first: int = 0) -> Rand:
    return Rand(seed=0, step=0, progress=0.0, first=first, rows=rows)


Step = tuple[float, dict[str, Tensor]]


def gradients(model: MAE) -> dict[str, Tensor]:
    """The gradient of every parameter that is trained; the biases of keys are left out."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        gradient = parameter.grad.clone()
        if name.endswith("qkv.bias"):
            gradient[len(gradient) // 3 : 2 * len(gradient) // 3] = 0
        elif name.endswith("attn.kv.bias"):
            gradient[: len(gradient) // 2] = 0
        found[name] = gradient
    return found


def train(model: MAE, images: Tensor, **call) -> Step:
    model.zero_grad(set_to_none=True)
    loss = model(images, **call)["loss"]
    loss.backward()
    return loss.item(), gradients(model)


def gap(ours: Step, reference: Step) -> tuple[float, float]:
    """Relative differences of the loss, and of the gradients by each tensor's norm."""
    assert ours[1].keys() == reference[1].keys()
    most = 0.0
    for name, want in reference[1].items():
        assert want.norm() > 1e-9, f"{name}: a zero gradient shows nothing"
        most = max(most, ((ours[1][name] - want).norm() / want.norm()).item())
    return abs(ours[0] - reference[0]) / abs(reference[0]), most


def same(ours: Step, reference: Step) -> None:
    loss, gradient = gap(ours, reference)
    assert loss < 1e-13
    assert gradient < 1e-12


def add_up(model, images: Tensor) -> None:
    """One step on eight images and two micro-batches of four have the same loss and gradients."""
    source = rand(8, first=40)
    whole = train(model, images, rand=source)
    model.zero_grad(set_to_none=True)
    total = 0.0
    for start in (0, 4):
        out = model(images[start : start + 4], rand=source.slice(start, start + 4))
        (out["loss"] / 2).backward()
        total += out["loss"].item() / 2
    same((total, gradients(model)), whole)


def refused(words: str, **arguments) -> None:
    """Such a model cannot be made, and a few lines say why."""
    with pytest.raises(UsageError, match=words) as found:
        tiny(**arguments)
    assert len(str(found.value).splitlines()) <= 4
