"""Crops and flips: torchvision's rule for the box, any size and channels, exact where it can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from openmae.data.transforms import EvalTransform, TrainTransform, crop_box, to_tensor
from openmae.randomness import uniforms

TRIES = 10


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def boxes(height: int, width: int, smallest: float, count: int) -> np.ndarray:
    draws = uniforms(0, "test", 0, 4 * TRIES, count).reshape(count, TRIES, 4)
    return np.array([crop_box(height, width, smallest, d) for d in draws])


def torchvision_boxes(height: int, width: int, smallest: float, count: int) -> np.ndarray:
    image = torch.empty(1, height, width)
    rule = {"scale": [smallest, 1.0], "ratio": [3 / 4, 4 / 3]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return np.array([RandomResizedCrop.get_params(image, **rule) for _ in range(count)])


# The box.


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (97, 101), (32, 32)])
@pytest.mark.parametrize("smallest", [0.2, 0.6])
def test_box_stays_inside_and_within_bounds(height, width, smallest):
    top, left, h, w = boxes(height, width, smallest, 1000).T
    assert min(top.min(), left.min()) >= 0
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    # half a pixel of rounding on each side
    assert ((h + 0.5) * (w + 0.5) >= smallest * height * width).all()
    assert ((w - 0.5) / (h + 0.5) <= 4 / 3).all()
    assert ((w + 0.5) / (h - 0.5) >= 3 / 4).all()


@pytest.mark.parametrize(("height", "width"), [(240, 320), (200, 200), (150, 450)])
def test_statistics_are_torchvisions(height, width):
    """Share of the area, log aspect, relative place: means within 5 standard errors, quantiles."""
    n = 3000

    def measures(found: np.ndarray) -> np.ndarray:
        top, left, h, w = found.T.astype(float)
        down, right = top / np.maximum(height - h, 1), left / np.maximum(width - w, 1)
        return np.stack([h * w / (height * width), np.log(w / h), down, right])

    ours = measures(boxes(height, width, 0.2, n))
    theirs = measures(torchvision_boxes(height, width, 0.2, n))
    error = np.sqrt((ours.var(1) + theirs.var(1)) / n)
    assert (np.abs(ours.mean(1) - theirs.mean(1)) < 5 * error).all()
    for a, b in zip(np.sort(ours), np.sort(theirs), strict=True):
        spread = b[-1] - b[0]
        assert np.abs(a - b).mean() < 0.03 * spread


@pytest.mark.parametrize(
    ("height", "width"), [(1, 10000), (10000, 1), (5, 400), (400, 5), (10, 1000), (1, 1)]
)
def test_extreme_shapes_fall_back_as_torchvision_does(height, width):
    ours = {tuple(box) for box in boxes(height, width, 0.2, 50).tolist()}
    theirs = {tuple(box) for box in torchvision_boxes(height, width, 0.2, 50).tolist()}
    assert ours == theirs
    assert len(ours) == 1


def test_a_try_that_does_not_fit_is_passed_over():
    fits, too_wide = [0.1, 0.5, 0.0, 0.0], [0.999, 0.999, 0.0, 0.0]
    first = crop_box(100, 100, 0.2, np.array([fits] * TRIES))
    assert crop_box(100, 100, 0.2, np.array([too_wide, fits] + [too_wide] * 8)) == first
    assert crop_box(100, 100, 0.2, np.array([too_wide] * TRIES)) == (0, 0, 100, 100)


def test_places_reach_both_edges():
    top, left, h, w = boxes(64, 64, 0.2, 3000).T
    for place, room in ((top, 64 - h), (left, 64 - w)):
        free = room > 4
        assert (place[free] == 0).any()
        assert (place[free] == room[free]).any()


# The training transform.


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (40, 16)])
def test_size_and_channels(channels, size):
    transform = TrainTransform(size)
    out = transform(noise(50, 70, channels), transform.draws(0, 1)[0])
    assert out.shape == (channels, *size)
    assert out.dtype == torch.uint8
    assert len(out.unique()) > 50


def test_draws_belong_to_positions():
    transform = TrainTransform((8, 8), seed=3)
    whole = transform.draws(100, 12)
    assert whole.shape == (12, 41)
    assert np.array_equal(whole[5:], transform.draws(105, 7))
    assert not np.array_equal(whole, TrainTransform((8, 8), seed=4).draws(100, 12))


def test_calls_have_no_state():
    transform, image = TrainTransform((16, 16)), noise(40, 40)
    draws = transform.draws(7, 1)[0]
    first = transform(image, draws)
    torch.rand(5)
    assert torch.equal(transform(image, draws), first)
    assert not torch.equal(transform(image, transform.draws(8, 1)[0]), first)


def test_crop_is_that_of_the_box():
    draws = TrainTransform((16, 16)).draws(3, 1)[0]
    draws[-1] = 0.9
    image = noise(64, 64)
    top, left, h, w = crop_box(64, 64, 0.2, draws[:-1].reshape(TRIES, 4))
    other = noise(64, 64)
    other[:top], other[top + h :], other[:, :left], other[:, left + w :] = 0, 0, 0, 0
    got = TrainTransform((16, 16))(image, draws)
    assert torch.equal(got, TrainTransform((16, 16))(other, draws))
    again = TrainTransform((h, w))(image, draws)
    assert torch.equal(again, to_tensor(image[top : top + h, left : left + w]))


def test_flip():
    image = noise(32, 32)
    on, off = TrainTransform((8, 8)), TrainTransform((8, 8), flip=False)
    draws = on.draws(0, 400)
    flipped = 0
    for row in draws:
        with_flip, without = on(image, row), off(image, row)
        same = torch.equal(with_flip, without)
        assert same or torch.equal(with_flip, without.flip(-1))
        flipped += not same
    assert abs(flipped - 200) < 50  # 5 standard errors of a fair coin


def test_bicubic_of_torchvision():
    draws = np.full(41, 0.9)
    want = torch.nn.functional.interpolate(
        to_tensor(noise(64, 64))[None].float(), (16, 16), mode="bicubic", antialias=True
    )
    got = TrainTransform((16, 16), crop=1.0)(noise(64, 64), draws_of_whole(draws))
    assert (got - want[0].clamp(0, 255)).abs().max() <= 1.5  # rounding to bytes, twice


def draws_of_whole(draws: np.ndarray) -> np.ndarray:
    """Aspect 1 at every try, so that with crop=1 the box is the whole image; no flip."""
    draws = draws.copy()
    draws[1:-1:4] = 0.5
    return draws


# The transform of evaluation.


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_size_that_fits_is_exact(channels):
    image = noise(24, 40, channels)
    assert torch.equal(EvalTransform((24, 40))(image), to_tensor(image))


@pytest.mark.parametrize(("height", "width"), [(24, 60), (50, 40)])
def test_one_side_that_fits_is_only_cropped(height, width):
    image = noise(height, width)
    top, left = (height - 24) // 2, (width - 40) // 2
    want = to_tensor(image[top : top + 24, left : left + 40])
    assert torch.equal(EvalTransform((24, 40))(image), want)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (1, 1), (7, 90), (90, 7), (301, 77)])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_any_shape_is_brought_to_size(height, width, size):
    out = EvalTransform(size)(noise(height, width))
    assert out.shape == (3, *size)
    assert out.dtype == torch.uint8


def test_evaluation_keeps_the_aspect_and_the_centre():
    image = np.zeros((100, 200, 1), dtype=np.uint8)
    image[40:60, 90:110] = 255  # a square in the middle
    out = EvalTransform((50, 50))(image)[0]
    inside = out > 127
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 29, 20, 29)
