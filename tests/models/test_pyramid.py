"""The simple pyramid and the heads of ViTDet: strides, channels and parameters counted by hand."""

from __future__ import annotations

import pytest
import torch

from openmae.models.proposals import Proposals, anchors_of, sample
from openmae.models.pyramid import SimplePyramid
from openmae.models.roiheads import RoIHeads, paste


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_levels_have_a_quarter_to_four_patches():
    maps = SimplePyramid(64, 24)(torch.randn(2, 64, 6, 5))
    assert [tuple(m.shape) for m in maps] == [
        (2, 24, 24, 20),
        (2, 24, 12, 10),
        (2, 24, 6, 5),
        (2, 24, 3, 2),
        (2, 24, 2, 1),
    ]
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])


def test_parameters_of_the_pyramid_of_a_base_encoder():
    d, c = 768, 256
    up = (d * (d // 2) * 4 + d // 2) + 2 * (d // 2) + ((d // 2) * (d // 4) * 4 + d // 4)
    half = d * (d // 2) * 4 + d // 2
    outputs = sum(w * c + 2 * c + 9 * c * c + 2 * c for w in (d // 4, d // 2, d, d))
    assert count(SimplePyramid(d, c)) == up + half + outputs


def test_parameters_of_the_proposals():
    c = 256
    convolutions = 2 * (9 * c * c + c)
    assert count(Proposals(c, 16)) == convolutions + (c * 3 + 3) + (c * 12 + 12)


@pytest.mark.parametrize("masks", [True, False])
def test_parameters_of_the_heads(masks):
    c, classes = 256, 80
    four = 4 * (9 * c * c + 2 * c)
    box = four + (c * 49 * 1024 + 1024) + (1024 * 81 + 81) + (1024 * 324 + 324)
    mask = four + (c * c * 4 + c) + (c * 81 + 81)
    assert count(RoIHeads(c, classes, 16, masks)) == box + (mask if masks else 0)


def test_anchors_are_published_ones():
    """Sides 32 to 512 for strides 4 to 64, three of one area; centred on the corner of a place."""
    for stride, side in ((4, 32), (8, 64), (16, 128), (32, 256), (64, 512)):
        boxes = anchors_of((2, 3), stride, torch.device("cpu"))
        size = boxes[:, 2:] - boxes[:, :2]
        assert boxes.shape == (18, 4)
        torch.testing.assert_close(size.prod(1), torch.full((18,), float(side * side)))
        torch.testing.assert_close(size[:3, 1] / size[:3, 0], torch.tensor([0.5, 1.0, 2.0]))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(centre[::3], torch.tensor(
        [[0.0, 0], [64, 0], [128, 0], [0, 64], [64, 64], [128, 64]]
    ))  # fmt: skip


def test_a_sample_is_what_has_least_noise():
    labels = torch.tensor([1, 0, 0, 1, -1, 0, 1, 0])
    noise = torch.tensor([0.9, 0.8, 0.1, 0.2, 0.0, 0.3, 0.5, 0.7])
    assert sample(labels, noise, 4, 0.5).tolist() == [3, 6, 2, 5]
    assert sample(labels, noise, 4, 0.25).tolist() == [3, 2, 5, 7]
    assert sorted(sample(labels, noise, 100, 0.5).tolist()) == [0, 1, 2, 3, 5, 6, 7]
    assert len(sample(torch.zeros(0, dtype=torch.int64), noise, 4, 0.5)) == 0


@pytest.mark.parametrize(("side", "level"), [(224, 2), (223, 1), (112, 1), (448, 3), (5, 0)])
def test_a_region_comes_from_the_level_of_its_size(side, level):
    """224 pixels from stride 16, and half of that from the next finer one (Lin et al. 2017)."""
    heads = RoIHeads(4, 1, 16)
    maps = [torch.full((1, 4, 512 // s, 512 // s), float(i)) for i, s in enumerate((4, 8, 16, 32))]
    maps.append(torch.zeros(1, 4, 8, 8))
    out = heads.pool(maps, [torch.tensor([[10.0, 20, 10 + side, 20 + side]])], 7)
    assert out.shape == (1, 4, 7, 7)
    assert out.unique().tolist() == [level]


def test_a_pasted_mask_fills_its_box():
    full = torch.ones(1, 28, 28)
    out = paste(full, torch.tensor([[2.0, 3, 7, 9]]), (12, 10))
    expected = torch.zeros(12, 10, dtype=torch.bool)
    expected[3:9, 2:7] = True
    assert torch.equal(out[0], expected)
    left = full.clone()
    left[..., 14:] = 0
    out = paste(left, torch.tensor([[2.0, 3, 8, 9]]), (12, 10))
    assert out[0].any(0).nonzero()[:, 0].tolist() == [2, 3, 4]
    outside = paste(full, torch.tensor([[-4.0, -4, 2, 2]]), (12, 10))
    assert outside[0].sum() == 4
