"""Views: each operation against torchvision's, and their randomness."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from openmae.data.loader import collated
from openmae.data.transforms import crop_box
from openmae.data.views import View, ViewsTransform, blurred, hue_moved, jittered

PLAIN = View(flip=False, jitter_p=0.0, gray_p=0.0)


def picture(height: int = 40, width: int = 48, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours and some noise, 8-bit."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    bands = [np.sin(6 * x * (c + 1) + 4 * y) for c in range(channels)]
    noise = np.random.default_rng(seed).normal(0, 0.05, (height, width, channels))
    values = 0.5 + 0.4 * np.stack(bands, -1) + noise
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def unit(seed: int = 0, **more: int) -> torch.Tensor:
    return torch.from_numpy(picture(seed=seed, **more)).permute(2, 0, 1).float() / 255


def made(view: View, image: np.ndarray, rows: int = 1, **more: object) -> list[torch.Tensor]:
    transform = ViewsTransform((16, 16), [view], **more)
    return [transform(image, draws)["image"][0] for draws in transform.draws(0, rows)]


# Each operation.


@pytest.mark.parametrize("turn", [-0.5, -0.13, 0.0, 0.07, 0.31, 0.5])
def test_hue(turn):
    image = unit()
    image[:, 0, :10] = torch.linspace(0, 1, 10)  # grays
    image[:, 1, :6] = torch.tensor([[1.0, 1, 0, 0, 0, 1], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
    found = hue_moved(image, turn)
    assert torch.allclose(found, tv.adjust_hue(image, turn), atol=2e-6)
    red, green, blue = image[:, 7, 9].tolist()
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    wanted = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    assert found[:, 7, 9].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"), list(enumerate(["adjust_brightness", "adjust_contrast", "adjust_saturation"]))
)
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.99])
def test_brightness_contrast_saturation(kind, name, draw):
    strength, draws = [0.0] * 4, [0.5] * 4
    strength[kind], draws[kind] = 0.8, draw
    found = jittered(unit(), strength, draws, 0.0)
    wanted = getattr(tv, name)(unit(), 1 + 0.8 * (2 * draw - 1))
    assert torch.allclose(found, wanted, atol=2e-6)


def test_jitter_has_every_order():
    results = {
        tuple(
            jittered(unit(), (0.9, 0.9, 0.9, 0.4), (0.9, 0.1, 0.9, 0.8), (n + 0.5) / 24)[
                :, 3, 4
            ].tolist()
        )
        for n in range(24)
    }
    assert len(results) > 12
    first = tv.adjust_brightness(unit(), 1.4)
    first = tv.adjust_hue(tv.adjust_saturation(tv.adjust_contrast(first, 0.7), 1.2), 0.05)
    draws = (0.9, 0.2, 0.7, 0.625)
    found = jittered(unit(), (0.5, 0.5, 0.5, 0.2), draws, 0.0)
    assert torch.allclose(found, first, atol=5e-6)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur(sigma):
    reach = max(1, int(np.ceil(3 * sigma)))
    wanted = tv.gaussian_blur(unit(), [2 * reach + 1] * 2, [sigma] * 2)
    assert torch.allclose(blurred(unit(), sigma), wanted, atol=2e-6)


def test_blur_of_small_images_stays_inside():
    assert blurred(unit(height=4, width=5), 2.0).shape == (3, 4, 5)


def test_gray_and_solarise():
    image = picture(16, 16)
    full = View((16, 16), (1.0, 1.0), flip=False, jitter_p=0, gray_p=1)
    draws = np.zeros((1, 52))
    whole = torch.from_numpy(image).permute(2, 0, 1)
    height, width = 16, 16
    assert crop_box(height, width, 1.0, np.full((1, 4), 0.5)) == (0, 0, 16, 16)
    draws[0, :40] = 0.5
    draws[0, 40:] = 0.5
    gray = ViewsTransform((16, 16), [full])(image, draws)["image"][0]
    wanted = tv.rgb_to_grayscale(whole, 3)
    assert (gray.int() - wanted.int()).abs().max() <= 1
    sun = View((16, 16), (1.0, 1.0), flip=False, jitter_p=0, gray_p=0, solarize_p=1)
    found = ViewsTransform((16, 16), [sun])(image, draws)["image"][0]
    assert torch.equal(found, tv.solarize(whole, 128))


def test_crop():
    view = View(None, (0.2, 0.5), flip=False, jitter_p=0.0, gray_p=0.0)
    transform = ViewsTransform((16, 16), [view])
    image = torch.from_numpy(picture()).permute(2, 0, 1)
    for draws in transform.draws(5, 20):
        tries = draws[:40].reshape(10, 4).copy()
        areas = 0.2 + 0.3 * tries[:, 0]
        tries[:, 0] = (areas - 0.2) / 0.8
        box = crop_box(40, 48, 0.2, tries)
        assert 0.18 < box[2] * box[3] / (40 * 48) < 0.52
        wanted = tv.resized_crop(image, *box, [16, 16], InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(transform(picture(), draws)["image"][0], wanted)


# The whole.


def test_a_function_of_seed_and_position():
    transform = ViewsTransform((16, 16), [View(blur_p=0.5), View(solarize_p=0.5)], seed=3)
    many = transform.draws(100, 6)
    assert np.array_equal(transform.draws(104, 2), many[4:])
    assert not np.array_equal(ViewsTransform((16, 16), [View(), View()]).draws(100, 6), many)
    state = torch.get_rng_state()
    one, again = (transform(picture(), many[2])["image"] for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one[0], one[1])


def test_probabilities():
    """Of 400 views, within four standard deviations."""
    image = picture(16, 16)
    whole = torch.from_numpy(image).permute(2, 0, 1)
    full = {"crop": (1.0, 1.0), "flip": False, "jitter_p": 0.0, "gray_p": 0.0}
    for change, share in ({"jitter_p": 0.8}, 0.8), ({"gray_p": 0.2}, 0.2), ({"flip": True}, 0.5):
        seen = made(View(**(full | change)), image, 400)
        changed = sum(not torch.equal(v, whole) for v in seen) / 400
        assert abs(changed - share) < 4 * (share * (1 - share) / 400) ** 0.5
    for change in ({"blur_p": 1.0}, {"solarize_p": 1.0}):
        view = View(**(full | {"sigma": (10.0, 20.0)} | change))
        assert all(not torch.equal(v, whole) for v in made(view, image, 20))


def test_sizes_and_batches():
    views = [{"crop": (0.4, 1.0)}] * 2 + [{"size": (8, 8), "crop": (0.05, 0.4)}] * 3
    transform = ViewsTransform((16, 16), views)
    rows = [transform({"image": picture(seed=n)}, transform.draws(n, 1)[0]) for n in range(4)]
    batch = collated(rows)
    assert batch["image"].shape == (4, 2, 3, 16, 16)
    assert batch["local"].shape == (4, 3, 3, 8, 8)
    assert batch["image"].dtype == batch["local"].dtype == torch.uint8
    assert torch.equal(batch["image"][2], rows[2]["image"])


@pytest.mark.parametrize("channels", [1, 2, 4, 9])
def test_any_number_of_channels(channels):
    view = View(jitter=(0.4, 0.4, 0.2, 0.1), blur_p=1.0, gray_p=1.0, jitter_p=1.0)
    (found,) = made(view, picture(channels=channels))
    assert found.shape == (channels, 16, 16)
    assert found.dtype == torch.uint8


def test_float_images_are_changed_on_the_unit_scale():
    """A view of normalised float32 values is that of 8-bit ones, but for their rounding."""
    image, mean, std = picture(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    normal = ((image.astype(np.float32) / 255 - mean) / std).astype(np.float32)
    view = View(jitter_p=1.0, blur_p=0.5, solarize_p=0.2)
    of_bytes = made(view, image, 12, mean=mean, std=std)
    for bytes_, floats in zip(of_bytes, made(view, normal, 12, mean=mean, std=std), strict=True):
        assert floats.dtype == torch.float32
        back = floats * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        gap = (back.clamp(0, 1) - bytes_.float() / 255).abs()
        assert gap.median() < 0.01


def test_plain_float_views_keep_their_values():
    image = np.full((20, 20, 2), 7.5, dtype=np.float32)
    (found,) = made(PLAIN, image)
    assert torch.allclose(found, torch.tensor(7.5), atol=1e-5)
