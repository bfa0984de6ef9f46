"""Stochastic depth with given draws, against timm's own."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers.drop import DropPath as TimmDropPath
from torch import Tensor, nn

from openmae.models.droppath import DropPath, install

SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "num_classes": 0}


def vit(depth: int = 4, rate: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=depth, drop_path_rate=rate, **SIZES)


def timms(rate: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """timm's output for `x` in training mode, and which rows it kept."""
    torch.manual_seed(3)
    kept = TimmDropPath(rate)(torch.ones(len(x), 1)).squeeze(1) != 0
    torch.manual_seed(3)
    return TimmDropPath(rate)(x), kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
def test_a_branch_is_scaled_as_timms(rate, dtype):
    x = torch.randn(64, 3, 8).to(dtype)
    want, kept = timms(rate, x)
    assert 0 < kept.sum() < 64
    path = DropPath(rate)
    path.draw = torch.where(kept, 0.95, 0.05)  # on the two sides of the rate
    assert path(x).dtype == dtype
    assert torch.equal(path(x), want)


def test_by_hand():
    path, x = DropPath(0.25), torch.randn(3, 2, 4)
    path.draw = torch.tensor([0.24, 0.25, 0.99])
    torch.testing.assert_close(path(x), torch.stack([x[0] * 0, x[1] / 0.75, x[2] / 0.75]))


def test_evaluation_and_rate_zero_change_nothing_and_need_no_draw():
    x = torch.randn(2, 3, 4)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_a_forgotten_draw_is_an_error_not_a_default():
    with pytest.raises(AssertionError, match="draw_paths"):
        DropPath(0.5)(torch.randn(2, 3, 4))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("depth", [1, 2, 4, 12])
def test_rates_are_timms(depth, rate):
    blocks = vit(depth, rate).blocks
    want = [
        float(getattr(path, "drop_prob", 0.0))
        for block in blocks
        for path in (block.drop_path1, block.drop_path2)
    ]
    found = [path.rate for path in install(vit(depth), rate)]
    assert found == pytest.approx(want, abs=1e-7)  # timm's are float32


def test_rates_of_vit_l_by_hand():
    """Table 9: 0 in the first block, 0.1 in the last, in 23 equal steps."""
    found = [path.rate for path in install(vit(24), 0.1)[::2]]
    assert found == pytest.approx([0.1 * i / 23 for i in range(24)], abs=1e-15)


def test_a_whole_network_is_timms_with_the_same_rows_dropped():
    theirs, ours = vit(4, 0.75).double().train(), vit(4).double().train()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    kept: dict[str, Tensor] = {}

    def remember(name):
        def hook(module, inputs, output):
            kept[name] = output.flatten(1).abs().amax(1) > 0

        return hook

    for name, module in theirs.named_modules():
        if isinstance(module, TimmDropPath):
            module.register_forward_hook(remember(name))
    images = torch.randn(32, 3, 16, 16, dtype=torch.float64)
    want = theirs(images)
    install(ours, 0.75)  # 0, 0.25, 0.5, 0.75: exact in the float32 of timm's rates too
    for name, module in ours.named_modules():
        if isinstance(module, DropPath):
            rows = kept.get(name, torch.ones(32, dtype=torch.bool))
            module.draw = torch.where(rows, 0.99, 0.0)
    assert len(kept) == 6  # two a block; the first block drops nothing
    assert len({tuple(rows.tolist()) for rows in kept.values()}) == 6
    torch.testing.assert_close(ours(images), want, rtol=0, atol=1e-13)
    assert not torch.allclose(ours.eval()(images), want)
