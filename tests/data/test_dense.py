"""Samples whose labels lie in the image: where a pixel goes, its box and its mask go too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.data.dense import FitBatches, JitterTransform, Place, bounds, fit, place_objects

SIZE = (24, 32)


def sample(height: int = 30, width: int = 40) -> dict:
    """Three bright rectangles on black, with their boxes and masks."""
    boxes = np.array([[4, 6, 14, 16], [20, 2, 36, 10], [18, 18, 38, 28]], dtype=np.float32)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    masks = np.zeros((3, height, width), dtype=np.bool_)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        image[y1:y2, x1:x2] = 255
        mask[y1:y2, x1:x2] = True
    return {"image": image, "boxes": boxes, "labels": np.array([0, 1, 2]), "masks": masks}


def test_the_same_position_is_the_same_sample():
    first, again = JitterTransform(SIZE, seed=3), JitterTransform(SIZE, seed=3)
    draws = first.draws(5, 4)
    assert np.array_equal(draws[2:], again.draws(7, 2))
    a, b = first(sample(), draws[1]), again(sample(), again.draws(6, 1)[0])
    assert all(torch.equal(a[n], b[n]) for n in a)
    other = JitterTransform(SIZE, seed=4)
    assert not np.array_equal(other.draws(5, 4), draws)


@pytest.mark.parametrize("position", range(40))
def test_boxes_and_masks_go_with_the_pixels(position):
    transform = JitterTransform(SIZE, (0.5, 2.0))
    out = transform(sample(), transform.draws(position, 1)[0])
    assert out["image"].shape == (3, *SIZE)
    assert out["image"].dtype == torch.uint8
    assert len(out["boxes"]) == len(out["masks"]) == len(out["labels"])
    bright = out["image"][0] > 200
    for box, mask in zip(out["boxes"], out["masks"].bool(), strict=True):
        x1, y1, x2, y2 = box.tolist()
        assert 0 <= x1 < x2 <= SIZE[1]
        assert 0 <= y1 < y2 <= SIZE[0]
        assert float((bounds(mask[None])[0] - box).abs().max()) <= 1.01
        ys, xs = mask.nonzero(as_tuple=True)
        inner = mask.clone()
        for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):  # not its edge, which is half bright
            inner &= mask.roll((dy, dx), (0, 1))
        assert bool(bright[inner].all()), f"{len(ys)} {len(xs)}"


def test_a_flip_mirrors_all():
    place = Place((30, 40), 0, 0, False)
    plain = place_objects(sample(), (30, 40), place)
    other = place_objects(sample(), (30, 40), Place((30, 40), 0, 0, True))
    assert torch.equal(plain["masks"].flip(-1), other["masks"])
    assert torch.equal(40 - plain["boxes"][:, [2, 0]], other["boxes"][:, [0, 2]])
    assert torch.equal(plain["masks"].bool(), torch.as_tensor(sample()["masks"]))
    assert torch.equal(plain["boxes"], torch.as_tensor(sample()["boxes"]))


def test_what_is_cropped_away_is_gone_and_what_is_cut_follows_its_mask():
    given = sample()
    given["masks"][1, 2:6, 20:36] = False  # only its lower half is the object
    out = place_objects(given, (30, 26), Place((30, 40), 0, 14, False))
    assert out["labels"].tolist() == [1, 2]
    assert out["boxes"].tolist() == [[6, 6, 22, 10], [4, 18, 24, 28]] or out["boxes"][0, 1] == 2
    cut = place_objects(given, (30, 10), Place((30, 40), 0, 24, False))
    assert cut["boxes"].tolist() == [[0, 6, 10, 10], [0, 18, 10, 28]]


def test_without_objects_and_without_masks():
    transform = JitterTransform(SIZE)
    out = transform({"image": sample()["image"]}, transform.draws(0, 1)[0])
    assert out["boxes"].shape == (0, 4)
    assert out["labels"].shape == (0,)
    assert "masks" not in out
    given = sample() | {"masks": np.zeros((0, 30, 40), dtype=np.bool_)}
    given |= {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)}
    assert transform(given, transform.draws(0, 1)[0])["masks"].shape == (0, *SIZE)


def test_the_border_is_gray_and_zero_in_normalised_images():
    out, fitted = fit(np.full((10, 40, 1), 200, dtype=np.uint8), (32, 32))
    assert fitted == (8, 32)
    assert out[0, :8].unique().tolist() == [200]
    assert out[0, 8:].unique().tolist() == [128]
    out, _ = fit(np.full((10, 40, 13), 0.5, dtype=np.float32), (32, 32))
    assert (out.shape, out[:, 8:].unique().tolist()) == ((13, 32, 32), [0])


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 2)])
def test_odd_shapes_fit(size):
    image = np.full((*size, 3), 9, dtype=np.uint8)
    out, (rows, columns) = fit(image, SIZE)
    assert out.shape == (3, *SIZE)
    assert 1 <= rows <= SIZE[0]
    assert 1 <= columns <= SIZE[1]
    transform = JitterTransform(SIZE, (0.1, 2.0))
    for row in transform.draws(0, 6):
        assert transform({"image": image}, row)["image"].shape == (3, *SIZE)


def test_batches_of_a_source_name_what_cannot_be_read(tmp_path):
    from PIL import Image

    from openmae.data.sources import open_source

    for i in range(3):
        Image.new("RGB", (10 + i, 8)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"nothing")
    batches = FitBatches(open_source(str(tmp_path)), SIZE, 2)
    first, second = batches[0], batches[1]
    assert len(batches) == 2
    assert (first["id"], second["id"]) == ([0], [2])
    assert (first["size"], first["fitted"]) == ([(8, 10)], [(24, 30)])
    assert first["bad"][0][0] == "1.png"
    assert second["image"].shape == (1, 3, *SIZE)
