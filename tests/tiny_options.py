"""Options of a very small model, for tests that need some model and not a certain one."""

from __future__ import annotations

_WORDS = """
    --dim 16 --depth 1 --heads 2 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2
    --image-size 32 --patch-size 8 --batch-size 4 --warmup-epochs 0 --workers 0
"""
TINY = _WORDS.split()
"""How many steps is left to the test."""

TINY_MAE = {
    "encoder": "vit_tiny_patch16_224",
    "image_size": (32, 48),
    "patch_size": 8,
    "encoder_args": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "decoder_dim": 32,
    "decoder_depth": 2,
    "decoder_heads": 4,
}
"""Arguments of a very small openmae.MAE, not square."""
