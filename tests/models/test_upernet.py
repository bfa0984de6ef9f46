"""Heads of a segmenter: sizes, numbers of parameters counted by hand, and pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openmae.models.upernet import DPT, FCN, HEADS, POOLS, Linear, Pyramid, UPerNet, pool_rows

D, C, K = 24, 16, 5


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def unit(inputs: int, outputs: int, side: int) -> int:
    """A convolution without bias and a norm's weight and bias."""
    return side**2 * inputs * outputs + 2 * outputs


def maps(h: int = 3, w: int = 4, dim: int = D, dtype=torch.float32) -> list[torch.Tensor]:
    return [torch.randn(2, dim, h, w, dtype=dtype) for _ in range(4)]


def test_the_pyramid_has_strides_of_a_quarter_to_two_patches():
    pyramid = Pyramid(D)
    up = 4 * D * D + D
    assert count(pyramid) == 3 * up + 2 * D
    levels = pyramid(maps(3, 5))
    assert [tuple(m.shape[1:]) for m in levels] == [(D, 12, 20), (D, 6, 10), (D, 3, 5), (D, 2, 3)]


def test_parameters_of_upernet_by_hand():
    by_hand = 3 * (4 * D * D + D) + 2 * D  # pyramid
    by_hand += 4 * unit(D, C, 1) + unit(D + 4 * C, C, 3)  # pyramid pooling, bottleneck
    by_hand += 3 * unit(D, C, 1) + 3 * unit(C, C, 3)  # laterals, and the convolutions after them
    by_hand += unit(4 * C, C, 3) + C * K + K  # fusion, classes
    assert count(UPerNet(D, K, C)) == by_hand


def test_parameters_of_the_published_size():
    """ViT-B on ADE20K: 768 wide, 150 classes; 85.6 M without the head."""
    with torch.device("meta"):
        head, extra = UPerNet(768, 150, 768), FCN(768, 150)
    d = 768
    by_hand = 3 * (4 * d * d + d) + 2 * d + 7 * unit(d, d, 1) + unit(5 * d, d, 3)
    by_hand += 3 * unit(d, d, 3) + unit(4 * d, d, 3) + 150 * d + 150
    assert count(head) == by_hand == 75_045_270
    assert count(extra) == 9 * d * 256 + 512 + 150 * 256 + 150


def test_parameters_of_the_light_heads_by_hand():
    assert count(Linear(D, K)) == D * K + K
    reduce = 2 * D + D * C + C
    fuse = 2 * (9 * C * C + C)
    assert count(DPT(D, K, C)) == 4 * (reduce + fuse) + unit(C, C, 3) + C * K + K


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 2)])
def test_features_of_any_grid(name, size):
    head = HEADS[name](D, K, C)
    given = maps(*size)[: head.count]
    scale = 1 if name == "linear" else 4
    out = head.classify(head(given))
    assert tuple(out.shape) == (2, K, scale * size[0], scale * size[1])
    out.sum().backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_an_image_does_not_see_the_others_of_its_batch(name):
    head = HEADS[name](D, K, C).double().train()
    given = maps(dtype=torch.float64)[: HEADS[name].count]
    both = head.classify(head(given))
    alone = head.classify(head([m[:1] for m in given]))
    torch.testing.assert_close(both[:1], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 16])
@pytest.mark.parametrize("parts", POOLS)
def test_pooling_is_torchs(length, parts):
    x = torch.randn(1, 2, length, length + 1, dtype=torch.float64)
    rows, columns = pool_rows(length, parts, x), pool_rows(length + 1, parts, x)
    expected = F.adaptive_avg_pool2d(x, parts)
    torch.testing.assert_close(rows @ x @ columns.t(), expected, atol=1e-14, rtol=0)
