"""The model card names the method that was trained, of all of METHODS; a conversion writes the
encoder that the method leaves.
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from openmae.methods import METHODS
from openmae.weights.card import write_card
from openmae.weights.encoderfile import save_encoder
from openmae.weights.load import load_any
from openmae.weights.methodfile import save_method
from openmae.weights.writers import whole

SIZE = {"image_size": 16, "patch_size": 4, "encoder": "vit_tiny_patch16_224"}
BLOCKS = {"encoder_args": {"embed_dim": 32, "depth": 1, "num_heads": 2}}
HEADS = {"hidden": 16, "out": 8}
TITLES = {
    "mae": ("Masked autoencoder", {}),
    "grouped_mae": ("Masked autoencoder of channel groups", {"channel_groups": [[0], [1, 2]]}),
    "simclr": ("Encoder of SimCLR", HEADS),
    "byol": ("Encoder of BYOL", HEADS),
    "mocov3": ("Encoder of MoCo v3", HEADS),
    "dino": ("Encoder of DINO", HEADS),
    "ibot": ("Encoder of iBOT", HEADS),
    "simmim": ("SimMIM", {}),
    "maskfeat": ("MaskFeat", {}),
    "beit": ("BEiT", {"target_args": {"codes": 8}}),
    "classify": ("Image classifier", {"classes": ["a", "b"]}),
    "segment": ("Encoder of a segmenter", {"classes": ["a", "b"], "head": "linear"}),
    "detect": ("Encoder of a detector", {"classes": ["a"], "window": 4, "pyramid_dim": 8}),
}


def card(path, folder) -> tuple[str, list[str]]:
    """The title of the card of what lies at a path, and its tags."""
    loaded = load_any(str(path))
    folder.mkdir()
    write_card(folder, whole(loaded.model), loaded, "mit", "timm", "x")
    text = (folder / "README.md").read_text()
    title = next(line for line in text.splitlines() if line.startswith("# "))
    return title.removeprefix("# "), yaml.safe_load(text.split("---")[1])["tags"]


def test_all_methods_are_here():
    assert TITLES.keys() == METHODS.keys() - {"tokenizer"}, "a tokenizer has no encoder"


@pytest.mark.parametrize("name", TITLES)
def test_the_title_names_the_method(name, tmp_path):
    title, more = TITLES[name]
    save_method(tmp_path / "m.safetensors", METHODS[name](**SIZE, **BLOCKS, **more))
    said, tags = card(tmp_path / "m.safetensors", tmp_path / "card")
    assert said == f"{title}, vit_tiny_patch16_224"
    assert ("masked-autoencoder" in tags) == (name in ("mae", "grouped_mae"))


@pytest.mark.parametrize(
    ("settings", "title"),
    [({"task": "pretrain"}, "Encoder of a masked autoencoder"),
     ({"task": "pretrain", "method": "beit"}, "Encoder of BEiT"),
     ({"task": "detect"}, "Encoder of a detector"),
     (None, "Encoder")],
)  # fmt: skip
def test_of_an_encoder_alone_the_settings_of_its_run_tell(settings, title, tmp_path):
    encoder = METHODS["mae"](**SIZE, **BLOCKS).encoder
    save_encoder(tmp_path / "encoder.safetensors", encoder, {})
    if settings:
        (tmp_path / "config.yaml").write_text(json.dumps(settings))
    source = tmp_path if settings else tmp_path / "encoder.safetensors"
    assert card(source, tmp_path / "card")[0] == f"{title}, vit_tiny_patch16_224"


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_the_encoder_that_is_written_is_the_one_the_method_leaves(name):
    method = METHODS[name](**SIZE, **BLOCKS, **HEADS)
    with torch.no_grad():
        next(method.teacher.encoder.vit.blocks.parameters()).add_(1)
    assert whole(method) is method.teacher.encoder
