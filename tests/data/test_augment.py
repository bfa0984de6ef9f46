"""Augmentation as a function of (seed, position), against timm's own."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing

from openmae.data.augment import AugmentTransform, _augmentation, seeded
from openmae.data.transforms import EvalTransform, TrainTransform
from openmae.errors import UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDAUG = "rand-m9-mstd0.5-inc1"


def image(channels: int = 3, size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, channels), dtype=np.uint8)


def transform(randaug: str | None = RANDAUG, erasing: float = 0.0, channels: int = 3):
    train = TrainTransform((32, 32), 0.5, True, seed=3)
    return AugmentTransform(train, randaug, erasing, MEAN[:channels], STD[:channels])


def test_without_timm_it_is_crop_and_flip():
    made = transform(None)
    draws = made.draws(5, 1)[0]
    assert torch.equal(made(image(), draws), made.train(image(), made.train.draws(5, 1)[0]))


def test_randaug_is_timms_with_its_own_parameters():
    made = transform()
    draws = made.draws(7, 1)[0]
    parameters = {
        "translate_const": int(32 * 0.45),
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.BICUBIC,
    }
    cropped = made.train(image(), draws[:-1]).permute(1, 2, 0).numpy()
    seed = int(draws[-1] * 2**32)
    random.seed(seed)
    np.random.seed(seed)
    expected = np.array(rand_augment_transform(RANDAUG, parameters)(Image.fromarray(cropped)))
    assert np.array_equal(made(image(), draws).permute(1, 2, 0).numpy(), expected)
    assert not np.array_equal(expected, cropped)


def test_erasing_is_timms_on_normalised_pixels():
    made = transform(None, erasing=1.0)
    draws = made.draws(2, 1)[0]
    out = made(image(), draws)
    plain = made.train(image(), draws[:-1]).float() / 255
    normal = (plain - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with seeded(int(draws[-1] * 2**32)):
        expected = RandomErasing(1.0, mode="pixel", device="cpu")(normal.clone())
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)
    assert not torch.equal(out, normal)


def test_a_row_depends_on_its_position_alone():
    made = transform(erasing=0.5)
    many = made.draws(10, 6)
    for row in range(6):
        assert np.array_equal(many[row], made.draws(10 + row, 1)[0])
    first = [made(image(), many[row]) for row in range(6)]
    again = [made(image(), many[row]) for row in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({float(a.sum()) for a in first}) == 6


def test_global_generators_are_left_alone():
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    made = transform(erasing=1.0)
    made(image(), made.draws(0, 1)[0])
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("position", range(12))
def test_one_channel_is_augmented_too(position):
    made = transform(channels=1)
    out = made(image(1), made.draws(position, 1)[0])
    assert out.shape == (1, 32, 32)
    assert out.dtype == torch.uint8


def test_other_channels_are_refused_by_name():
    train = TrainTransform((32, 32))
    with pytest.raises(UsageError, match="1 or 3 channels, not 5: --randaug none"):
        AugmentTransform(train, RANDAUG, 0.0, (0.5,) * 5, (0.5,) * 5)
    made = AugmentTransform(train, None, 0.0, (0.5,) * 5, (0.5,) * 5)
    assert made(image(5), made.draws(0, 1)[0]).shape == (5, 32, 32)


def test_crop_share_of_the_test_image_is_the_published_one():
    """Resize the shorter side to 256, then the central 224: torchvision's own two steps."""
    from torchvision.transforms import v2

    photo = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    resize = v2.Resize(256, v2.InterpolationMode.BICUBIC, antialias=True)
    expected = v2.CenterCrop(224)(resize(tensor))
    assert torch.equal(EvalTransform((224, 224), 224 / 256)(photo), expected)


def test_the_strongest_posterize_is_black_and_no_error():
    """timm asks for 0 bits in about one image of 500, which Pillow 13 refuses."""
    picture = Image.fromarray(image(size=8))
    made = _augmentation(RANDAUG, (8, 8), (0.5, 0.5, 0.5))
    (operation,) = (op for op in made.ops if op.name == "PosterizeIncreasing")
    operation.prob, operation.magnitude, operation.magnitude_std = 1.0, 10, 0
    try:
        assert not np.array(operation(picture)).any()
        operation.magnitude = 5
        assert np.array_equal(np.array(operation(picture)), np.array(picture) & 0b11000000)
    finally:
        _augmentation.cache_clear()
