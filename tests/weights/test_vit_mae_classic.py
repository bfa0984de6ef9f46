"""A folder that transformers 4 itself saved, with its own outputs: what most users have on disk. No
transformers takes part here; make_vit_mae_classic.py remakes the folder.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import variants
from safetensors.torch import load_file

import openmae
from openmae.weights.foreign import find
from openmae.weights.writers import FORMATS

FOLDER = Path(__file__).parent / "fixtures" / "vit_mae_classic"


def outputs() -> dict[str, torch.Tensor]:
    with np.load(FOLDER / "outputs.npz") as arrays:
        return {n: torch.from_numpy(arrays[n]) for n in arrays}


def test_it_is_what_it_says():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["transformers_version"].startswith("4.")
    tensors = load_file(FOLDER / "model.safetensors")
    assert set(tensors) == set(variants.hugging_face(openmae.load(FOLDER)))
    assert all(t.std() > 0 for t in tensors.values() if t.numel() > 1)  # no table is left at zero
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 60_000


def test_loss_logits_and_mask_are_its_own():
    made, want = openmae.load(FOLDER), outputs()
    with torch.inference_mode():
        found = made(want["pixel_values"], noise=want["noise"], full=True)
        trained = made(want["pixel_values"], noise=want["noise"])  # the path of training
    assert torch.equal(found["mask"], want["mask"])
    torch.testing.assert_close(found["pred"], want["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["loss"], want["loss"], atol=1e-5, rtol=0)
    torch.testing.assert_close(trained["loss"], want["loss"], atol=1e-5, rtol=0)


def test_its_config_is_believed():
    found = find(FOLDER)
    assert (found.target, found.target_reason) == ("pixels", "config.json")
    arch = found.arch
    assert (arch.num_heads, arch.decoder_heads, arch.mlp_hidden) == (2, 4, 36)
    assert (arch.eps, arch.image_size) == (1e-12, (16, 16))


def test_it_comes_back_as_it_was(tmp_path):
    """Our folder of it: the same tensors under the same names, and the same settings."""
    FORMATS["hf"].write(openmae.load(FOLDER), tmp_path / "x")
    theirs, ours = (load_file(p / "model.safetensors") for p in (FOLDER, tmp_path / "x"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[n], ours[n]) for n in theirs)
    theirs, ours = (json.loads((p / "config.json").read_text()) for p in (FOLDER, tmp_path / "x"))
    assert {k: v for k, v in theirs.items() if k not in ours} == {
        "dtype": "float32",
        "transformers_version": theirs["transformers_version"],
    }
    assert {k: ours[k] for k in theirs if k in ours} == {k: theirs[k] for k in theirs if k in ours}
