"""Remake fixtures/vit_mae_classic: a tiny ViTMAE of random weights as transformers 4 saved it, with
what that version computes from it. Its sizes are uneven on purpose: heads, hidden width of the MLP
and the size of the decoder can only come from its config.json, and nothing is published as such.

    make old-transformers
    .venv-transformers-4.57.6/bin/python tests/weights/make_vit_mae_classic.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from old_transformers import numbers, randomise

FOLDER = Path(__file__).parent / "fixtures" / "vit_mae_classic"
SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 36,
    "image_size": 16,
    "patch_size": 4,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
}


def main() -> None:
    """Write the folder anew."""
    config = transformers.ViTMAEConfig(**SIZES)
    model = randomise(transformers.ViTMAEForPreTraining(config), 0)
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "pixel_values": 0.5 + 0.5 * torch.randn(2, 3, 16, 16, generator=generator),
        "noise": torch.rand(2, 16, generator=generator),
    }
    found = numbers(model, inputs)
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.save_pretrained(FOLDER)
    arrays = {n: t.numpy() for n, t in {**inputs, **found}.items() if n != "ids_restore"}
    np.savez_compressed(FOLDER / "outputs.npz", **arrays)


if __name__ == "__main__":
    main()
