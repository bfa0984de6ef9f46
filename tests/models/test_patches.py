"""Patch order (row, column, channel last), its inverse, and the row gather."""

from __future__ import annotations

import pytest
import torch

from openmae.models.patches import patchify, take, unpatchify

CASES = [
    ((2, 3, 8, 12), (4, 4)),
    ((1, 1, 6, 4), (2, 4)),
    ((3, 5, 8, 6), (4, 2)),
    ((2, 4, 3, 5), (1, 1)),
]


@pytest.mark.parametrize(("shape", "patch"), CASES)
def test_patchify_against_a_loop(shape, patch):
    images = torch.arange(torch.tensor(shape).prod(), dtype=torch.float64).reshape(shape)
    batch, chans, height, width = shape
    p, q = patch
    columns = width // q
    patches = patchify(images, patch)
    assert patches.shape == (batch, height // p * columns, p * q * chans)
    for b in range(batch):
        for c in range(chans):
            for y in range(height):
                for x in range(width):
                    place = (y // p) * columns + x // q
                    value = ((y % p) * q + x % q) * chans + c
                    assert patches[b, place, value] == images[b, c, y, x]


@pytest.mark.parametrize(("shape", "patch"), CASES)
def test_unpatchify_is_the_inverse(shape, patch):
    images = torch.arange(torch.tensor(shape).prod()).reshape(shape)
    grid = (shape[2] // patch[0], shape[3] // patch[1])
    patches = patchify(images, patch)
    assert torch.equal(unpatchify(patches, patch, grid), images)
    assert torch.equal(patchify(unpatchify(patches, patch, grid), patch), patches)


def test_patchify_keeps_the_dtype():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert patchify(images, (4, 4)).dtype == torch.uint8


@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 13)])
def test_sizes_must_divide(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width} do not divide into patches of 4x4"):
        patchify(torch.zeros(1, 3, height, width), (4, 4))


@pytest.mark.parametrize("kept", [1, 5, 24])
def test_take_against_gather(kept):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 24, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    ids = torch.rand(3, 24, generator=generator).argsort(dim=1)[:, :kept]
    weight = torch.randn(3, kept, 7, dtype=torch.float64, generator=generator)
    taken = take(rows, ids)
    wanted = rows.gather(1, ids[..., None].expand(-1, -1, 7))
    assert torch.equal(taken, wanted)
    (ours,) = torch.autograd.grad((taken * weight).sum(), rows)
    (theirs,) = torch.autograd.grad((wanted * weight).sum(), rows)
    assert torch.equal(ours, theirs)
    assert ours.any()


def test_take_repeats_and_leaves_ids_alone():
    rows = torch.arange(12).reshape(2, 3, 2)
    ids = torch.tensor([[2, 2], [0, 1]])
    assert take(rows, ids).tolist() == [[[4, 5], [4, 5]], [[6, 7], [8, 9]]]
    assert ids.tolist() == [[2, 2], [0, 1]]
