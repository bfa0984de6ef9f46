"""Crops of images with masks: the same place for both, by position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.data.crops import CropTransform, base_scale, distorted
from openmae.data.loader import TrainBatches
from openmae.data.maskfile import Labels
from openmae.data.masklayouts import Pairs
from openmae.data.masks import MaskSource
from openmae.data.source import Sample

PLAIN = {"colours": False, "flip": False, "most": 1.0}


def sample(height: int = 40, width: int = 60, chans: int = 3) -> Sample:
    """An image whose first channel says the class, and its mask."""
    mask = np.random.default_rng(0).integers(0, 5, (height, width)).astype(np.int16)
    mask = mask.repeat(8, 0).repeat(8, 1)[:height, :width]
    image = np.zeros((height, width, chans), np.uint8)
    image[..., 0] = mask * 40
    return Sample(image=image, path="x", id=0, label=-1, mask=mask)


def made(transform: CropTransform, given: Sample, position: int = 0):
    out = transform(given, transform.draws(position, 1)[0])
    return out["image"], out["mask"]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("chans", [1, 3, 13])
def test_image_and_mask_are_cut_alike(flip, chans):
    transform = CropTransform((24, 32), scale=(1.0, 1.0), **{**PLAIN, "flip": flip})
    for position in range(8):
        image, mask = made(transform, sample(chans=chans), position)
        assert (tuple(image.shape), tuple(mask.shape)) == ((chans, 24, 32), (24, 32))
        assert torch.equal(image[0].long(), mask.long() * 40)


def test_scales_keep_the_place():
    transform = CropTransform((32, 32), scale=(0.5, 2.0), **PLAIN)
    agree = []
    for position in range(20):
        image, mask = made(transform, sample(64, 64), position)
        known = mask >= 0
        agree.append(float(((image[0] - mask.clamp(min=0) * 40).abs() < 20)[known].float().mean()))
    assert np.mean(agree) > 0.9  # but for the seams that are smoothed
    assert len(set(agree)) > 10


def test_beyond_the_image_there_is_the_fill_and_no_label():
    transform = CropTransform((30, 50), scale=(1.0, 1.0), fill=(7, 8, 9), **PLAIN)
    image, mask = made(transform, sample(20, 60))
    assert bool((mask[20:] == -1).all())
    assert bool((mask[:20] >= 0).all())
    assert image[:, 25, 3].tolist() == [7, 8, 9]
    image, mask = made(transform, sample(40, 20))
    assert bool((mask[:, 20:] == -1).all())
    assert image[:, 3, 45].tolist() == [7, 8, 9]


def test_short_side_and_scale():
    assert base_scale(40, 60, 20) == 0.5
    assert base_scale(40, 60, None) == 1.0
    transform = CropTransform((10, 10), short_side=10, scale=(1.0, 1.0), **PLAIN)
    given = sample(40, 40)
    _, mask = made(transform, given)
    assert torch.equal(mask.long(), torch.from_numpy(given["mask"][2::4, 2::4].astype(np.int64)))


def test_a_crop_of_one_class_is_drawn_again():
    given = sample(64, 64)
    given["mask"][:] = 0
    given["mask"][:, 40:] = 1
    image = np.zeros((64, 64, 3), np.uint8)
    given["image"] = image
    shares = []
    for most in (1.0, 0.75):
        transform = CropTransform((16, 16), scale=(1.0, 1.0), **{**PLAIN, "most": most})
        parts = [made(transform, given, p)[1] for p in range(100)]
        shares.append(np.mean([float((m == 0).float().mean()) in (0.0, 1.0) for m in parts]))
    assert shares[0] > 0.4
    assert shares[1] < 0.15  # ten tries


def test_the_same_position_gives_the_same_crop_and_masks_can_be_missing():
    transform = CropTransform((16, 16), seed=3)
    first, second = (made(transform, sample(), 5) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], made(transform, sample(), 6)[0])
    without = Sample(image=np.zeros((32, 32, 3), np.uint8), path="x", id=0, label=-1)
    assert bool((made(transform, without)[1] == -1).all())


def test_colours_change_within_bytes_and_can_stay():
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.equal(distorted(image, np.full(9, 0.9)), image)
    changed = distorted(image, np.full(9, 0.1))
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, image)


def test_batches_do_not_depend_on_ranks(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
        Image.fromarray(rng.integers(0, 3, (20, 24), dtype=np.uint8)).save(tmp_path / f"{name}.bmp")
    pairs = Pairs(tmp_path, tmp_path, [f"{n}.png" for n in "abcd"], [[f"{n}.bmp"] for n in "abcd"])
    source = MaskSource(pairs, Labels((0, 1, 2)), list("xyz"))
    transform = CropTransform((16, 16))
    whole = TrainBatches(source, transform, 0, 4)[2]
    parts = [TrainBatches(source, transform, 0, 4, rank=r, world=2)[2] for r in (0, 1)]
    for name in ("image", "mask"):
        assert torch.equal(whole[name], torch.cat([p[name] for p in parts]))
    assert tuple(whole["mask"].shape) == (4, 16, 16)
    assert whole["path"] == parts[0]["path"] + parts[1]["path"]
    (tmp_path / "b.bmp").write_bytes(b"broken")
    zero = TrainBatches(source, transform, 0, 4, "zero")[2]
    assert len(zero["bad"]) == 1
    assert "b.bmp" in zero["bad"][0][1]
    assert sum(bool((m == -1).all()) for m in zero["mask"]) == 1
