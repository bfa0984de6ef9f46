"""Feature maps of an encoder: timm's at its own size, resized positions at another one."""

from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from openmae.models.dense import chosen_blocks, feature_maps, padded
from openmae.models.encoder import Encoder, build_vit, create_arguments

KINDS = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "no positions of prefix": {"reg_tokens": 2, "no_embed_class": True},
    "patches alone": {"class_token": False, "global_pool": "avg", "fc_norm": False},
}


def encoder(chans: int = 3, **more) -> Encoder:
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 4, "num_heads": 2, **more}
    create = create_arguments("vit_tiny_patch16_224", (24, 32), 8, chans, sizes)
    made = Encoder(build_vit(create), [0.5] * chans, [0.5] * chans, create).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1)
    return made


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, (3, 5, 7, 11)), (24, (5, 11, 17, 23)), (32, (7, 15, 23, 31)), (4, (0, 1, 2, 3)),
     (2, (0, 0, 1, 1)), (1, (0, 0, 0, 0)), (6, (1, 2, 4, 5))],
)  # fmt: skip
def test_blocks_are_the_published_ones_or_spread_evenly(depth, blocks):
    assert chosen_blocks(depth) == blocks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", [False, True])
def test_maps_at_the_own_size_are_timms(kind, norm):
    made, images = encoder(**KINDS[kind]), torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        expected = made.vit.get_intermediate_layers(images, n=[1, 3], reshape=True, norm=norm)
        found = feature_maps(made, images, (1, 3), norm)
    assert [tuple(m.shape) for m in found] == [(2, 32, 3, 4)] * 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_another_size_are_timms_resample(kind):
    """As a timm model of that size that was given the resized table."""
    made, images = encoder(**KINDS[kind]), torch.randn(2, 3, 40, 16)
    create = {**made.create, "img_size": [40, 16]}
    other = build_vit(create).eval()
    rows = made.num_prefix_rows
    table = resample_abs_pos_embed(
        made.vit.pos_embed, [5, 2], [3, 4], num_prefix_tokens=rows, antialias=False
    )
    other.load_state_dict({**made.vit.state_dict(), "pos_embed": table})
    with torch.no_grad():
        expected = other.get_intermediate_layers(images, n=[0, 2], reshape=True)
        found = feature_maps(made, images, (0, 2))
    assert tuple(found[0].shape) == (2, 32, 5, 2)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_block_that_is_asked_for_twice_and_any_channels():
    made = encoder(13)
    with torch.no_grad():
        found = feature_maps(made, torch.randn(1, 13, 24, 32), (0, 0, 3, 3))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_padding_is_at_the_end_and_only_where_needed():
    images = torch.ones(1, 3, 17, 16)
    out = padded(images, (8, 8))
    assert tuple(out.shape) == (1, 3, 24, 16)
    assert float(out.sum()) == float(images.sum())
    assert padded(out, (8, 8)) is out
