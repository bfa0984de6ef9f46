"""BEiT: its loss against a formula in float64, and that it learns tokens of a few images."""

from __future__ import annotations

import math

import numpy as np
import torch
from test_masked_methods import PATCH, pixels, predictions, tiny
from variant_models import BATCH, LENGTH, pictures, rand

from openmae.methods import METHODS

CODES = {"target_args": {"codes": 7}}


def test_loss_by_formula():
    model = tiny("beit", **CODES)
    images = pictures(model)
    _, ids = model.ids(BATCH, rand().uniform)
    away = torch.zeros(BATCH, LENGTH, dtype=torch.bool).scatter(1, ids, True)
    codes = model.predicts.codebook.codes.numpy()
    with torch.no_grad():
        logits = predictions(model, images, away).numpy()
        out = model(images, rand=rand())
    want = np.zeros(BATCH)
    for b in range(BATCH):
        for place in range(LENGTH):
            if not away[b, place]:
                continue
            x = pixels(images, place)[b].numpy()
            x = (x - x.mean()) / math.sqrt(x.var(ddof=1) + 1e-6)
            token = min(range(7), key=lambda v: ((x - codes[v]) ** 2).sum())
            row = logits[b, place]
            want[b] += np.log(np.exp(row).sum()) - row[token]
    want /= away.sum(1).numpy()
    np.testing.assert_allclose(out["sample_loss"].numpy(), want, rtol=1e-11)
    assert abs(float(out["loss"]) - want.mean()) < 1e-11
    assert 1 <= float(out["token_perplexity"]) <= 7


def test_it_learns_the_tokens_of_a_few_images():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = METHODS["beit"](
            encoder="vit_tiny_patch16_224", image_size=(32, 48), patch_size=PATCH, mask="random",
            encoder_args={"embed_dim": 32, "depth": 2, "num_heads": 2}, **CODES,
        )  # fmt: skip
    images = pictures(model, 8).float()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for step in range(100):
        loss = model(images, rand=rand(8, first=8 * step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < 0.75 * math.log(7), "uniform guesses have ln 7"
    out = model.eval()(images, rand=rand(8), full=True)
    patches = torch.stack([pixels(images, place) for place in range(LENGTH)], dim=1)
    tokens, hidden = model.predicts.codebook.ids(patches), out["mask"].bool()
    majority = tokens[hidden].bincount().max() / hidden.sum()
    right = (out["pred"].argmax(-1) == tokens)[hidden].float().mean()
    assert right > 1.3 * majority
