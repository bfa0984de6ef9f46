"""The backbone of ViTDet: windows and relative positions against plain loops in float64, and timm's
own network where the windows are as large as the image.
"""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from openmae.errors import UsageError
from openmae.models import droppath
from openmae.models.encoder import Encoder, build_vit, create_arguments
from openmae.models.windows import (
    RelativePositions,
    WindowBlock,
    evenly,
    feature_map,
    install,
    partition,
    relative_bias,
    unpartition,
)

SIZES = {"embed_dim": 32, "depth": 4, "num_heads": 2}
NO_TOKEN = {"class_token": False, "global_pool": "avg", "fc_norm": False}


def encoder(size=(40, 24), **more) -> Encoder:
    torch.manual_seed(0)
    create = create_arguments("vit_tiny_patch16_224", size, 8, 3, {**SIZES, **more})
    return Encoder(build_vit(create), [0.5] * 3, [0.5] * 3, create).double()


def images(size=(40, 24)) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("window", [5, 14, 100])
def test_windows_as_large_as_the_image_are_timms_network(window):
    model = encoder(**NO_TOKEN)
    expected, names = model(images()), list(model.state_dict())
    install(model.vit, window)
    assert list(model.state_dict()) == names, "timm's own key names"
    found = feature_map(model, images(), norm=True)
    assert torch.equal(found.flatten(2).transpose(1, 2), expected)
    install_again = encoder(**NO_TOKEN)
    install_again.load_state_dict(model.state_dict())  # windowed weights are plain ones


def test_blocks_that_all_attend_globally_are_timms_network():
    model = encoder(**NO_TOKEN)
    expected = model(images())
    install(model.vit, 2, range(4))
    found = feature_map(model, images(), norm=True)
    assert torch.equal(found.flatten(2).transpose(1, 2), expected)


def test_a_class_token_takes_no_part():
    plain, own = encoder(**NO_TOKEN), encoder()
    tensors = dict(own.vit.state_dict())
    tensors.pop("cls_token")
    tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
    plain.vit.load_state_dict(tensors)
    expected = plain(images())
    install(own.vit, 14)
    found = feature_map(own, images(), norm=True)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, atol=1e-12, rtol=0)


def test_features_are_those_of_the_plain_encoder():
    """Class token and all: what embeds or scores with the encoder of a detector."""
    model = encoder()
    expected = model(images())
    install(model.vit, 2)
    torch.testing.assert_close(model(images()), expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(model.tokens(images(), 4), expected, atol=1e-13, rtol=0)


def windowed_by_hand(block: Block, x: Tensor, side: int) -> Tensor:
    """Attention of every window by itself, the last ones filled up with zeros after the norm."""
    _, height, width, _ = x.shape
    normed, mixed = block.norm1(x), torch.zeros_like(x)
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = normed[:, top : top + side, left : left + side]
            h, w = part.shape[1:3]
            whole = torch.zeros(len(x), side, side, x.shape[3], dtype=x.dtype)
            whole[:, :h, :w] = part
            out = block.attn(whole.flatten(1, 2)).reshape(whole.shape)
            mixed[:, top : top + h, left : left + w] = out[:, :h, :w]
    x = x + mixed
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("grid", [(6, 6), (7, 5), (4, 9)])
def test_a_windowed_block_is_a_loop_over_windows(grid):
    torch.manual_seed(0)
    block = Block(16, 2).double()
    x = torch.randn(2, *grid, 16, dtype=torch.float64)
    expected = windowed_by_hand(block, x, 3)
    found = WindowBlock(block, 3)(x)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


def test_partition_and_back():
    x = torch.arange(2 * 7 * 5 * 3, dtype=torch.float64).reshape(2, 7, 5, 3)
    windows, padded = partition(x, (3, 4))
    assert windows.shape == (2 * 3 * 2, 3, 4, 3)
    assert padded == (9, 8)
    assert torch.equal(windows[0], x[0, :3, :4])
    assert torch.equal(windows[1][:, :1], x[0, :3, 4:])
    assert float(windows[1][:, 1:].abs().sum()) == 0
    assert torch.equal(unpartition(windows, (3, 4), padded, (7, 5)), x)


def test_relative_positions_are_a_loop_over_pairs():
    torch.manual_seed(0)
    (h, w), heads, dim = (3, 4), 2, 5
    q = torch.randn(2, heads, h * w, dim, dtype=torch.float64)
    rows, columns = (torch.randn(2 * n - 1, dim, dtype=torch.float64) for n in (h, w))
    found = relative_bias(q, (h, w), rows, columns)
    for i, j, k, m in ((0, 0, 2, 3), (2, 1, 0, 3), (1, 3, 1, 0), (2, 3, 2, 3)):
        query, key = i * w + j, k * w + m
        table = rows[i - k + h - 1] + columns[j - m + w - 1]
        expected = (q[:, :, query] * table).sum(-1)
        torch.testing.assert_close(found[:, :, query, key], expected, atol=1e-13, rtol=0)


def test_relative_positions_in_a_block_are_a_bias_of_the_scores():
    torch.manual_seed(0)
    block = WindowBlock(Block(16, 2).double(), None)
    x = torch.randn(1, 3, 3, 16, dtype=torch.float64)
    rows, columns = (torch.randn(5, 8, dtype=torch.float64) for _ in range(2))
    attn = block.attn
    q, k, v = attn.qkv(block.norm1(x)).reshape(1, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) / 8**0.5 + relative_bias(q, (3, 3), rows, columns)
    out = attn.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(1, 3, 3, 16))
    expected = x + out
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x, (rows, columns)), expected, atol=1e-13, rtol=0)


def test_fresh_relative_positions_change_nothing():
    model = encoder(**NO_TOKEN)
    install(model.vit, 2)
    tables = RelativePositions(model.vit, model.grid).double()
    shapes = [(tuple(r.shape), tuple(c.shape)) for r, c in tables()]
    assert shapes == [((9, 16), (5, 16))] * 4, "four blocks of four: all are global"
    a, b = feature_map(model, images()), feature_map(model, images(), tables)
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (12, (2, 5, 8, 11)),
        (24, (5, 11, 17, 23)),
        (32, (7, 15, 23, 31)),
        (6, (1, 2, 4, 5)),
        (2, (0, 1)),
        (1, (0,)),
    ],
)
def test_global_blocks_are_spread_evenly(depth, expected):
    assert evenly(depth) == expected


def test_dropped_paths_of_windowed_blocks():
    model = encoder(**NO_TOKEN)
    install(model.vit, 2)
    paths = droppath.install(model.vit, 0.9)
    model.train()
    for path in paths:
        path.draw = torch.tensor([0.0, 1.0])
    kept, dropped = feature_map(model, images())[1], feature_map(model, images())[0]
    for path in paths:
        path.draw = torch.tensor([1.0, 0.0])
    other = feature_map(model, images())
    assert not torch.allclose(other[1], kept)
    assert not torch.allclose(other[0], dropped)


def test_what_has_no_windowed_form_is_refused():
    model = encoder()
    with pytest.raises(UsageError, match="0 to 3"):
        install(model.vit, 3, [4])
    other = build_vit(create_arguments("vit_tiny_patch16_224", 32, 8, 3, dict(SIZES)))
    install(other, 3)
    with pytest.raises(UsageError, match="no windowed form"):
        install(other, 3)


def test_the_padding_takes_part():
    """Zeros after the norm, as published: they change what the edge sees."""
    torch.manual_seed(0)
    block = Block(16, 2).double()
    x = torch.randn(1, 5, 5, 16, dtype=torch.float64)
    padded = WindowBlock(block, 3)(x)
    alone = WindowBlock(block, None)(x[:, 3:, 3:])
    assert not torch.allclose(padded[:, 3:, 3:], alone)
    inner = WindowBlock(block, None)(x[:, :3, :3])
    torch.testing.assert_close(padded[:, :3, :3], inner, atol=1e-13, rtol=0)
