"""Near duplicates: what a copy may have gone through, and that different images are not paired."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from openmae.data import likeness
from openmae.data.likeness import BITS, SIMILARITY, correlation, fingerprint, gray, twins


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A scene: a sky of colours, some shapes, and grain."""
    rng = np.random.default_rng(seed)
    width, height = size
    corners = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    scene = Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(scene)
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        a, b = rng.integers(8, width // 3), rng.integers(8, height // 3)
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + a, y + b), fill=colour)
    noisy = np.asarray(scene).astype(int) + rng.integers(-6, 7, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def brighter(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * 1.1).clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    a, b = int(width * (1 - share) / 2), int(height * (1 - share) / 2)
    return image.crop((a, b, width - a, height - b))


CHANGES = {
    "half": lambda image: image.resize((80, 60), Image.Resampling.BILINEAR),
    "twice": lambda image: image.resize((320, 240), Image.Resampling.BICUBIC),
    "q60": lambda image: jpeg(image, 60),
    "brighter": brighter,
    "cropped": lambda image: cropped(image, 0.97),
    "all": lambda image: jpeg(brighter(image.resize((100, 75))), 60),
}
PHOTOS = [photo(seed) for seed in range(60)]


def fingerprints(images) -> tuple[np.ndarray, np.ndarray]:
    made = [fingerprint(np.asarray(image).reshape(*image.size[::-1], -1)) for image in images]
    return np.array([h for h, _ in made], dtype=np.uint64), np.stack([p for _, p in made])


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found(name):
    copies = [CHANGES[name](image) for image in PHOTOS]
    found = twins(*fingerprints([*PHOTOS, *copies]))
    assert found.later.tolist() == list(range(60, 120))
    assert found.earlier.tolist() == list(range(60))
    assert found.bits.max() <= BITS
    assert found.similarity.min() >= SIMILARITY


def test_different_photos_are_not_paired():
    found = twins(*fingerprints([photo(seed) for seed in range(1000, 1300)]))
    assert len(found.later) == 0


def test_gray_is_found_as_its_colour_image():
    images = [*PHOTOS[:5], *(image.convert("L") for image in PHOTOS[:5])]
    assert twins(*fingerprints(images)).earlier.tolist() == [0, 1, 2, 3, 4]


def deep(image: Image.Image, bands: int, top: int) -> np.ndarray:
    """As a sensor of 12 bits in 16 would have it, with a few hot pixels."""
    values = np.asarray(image.convert("L")).astype(np.float64) / 255 * top
    out = np.stack([values * (1 + band / 10) + 50 for band in range(bands)], axis=2)
    out[::40, ::30] = 65535
    return out.astype(np.uint16)


@pytest.mark.parametrize("bands", [1, 2, 13])
def test_deep_images(bands):
    originals = [deep(image, bands, 3000) for image in PHOTOS[:20]]
    darker = [(deep(i.resize((80, 60)), bands, 1500) / 3e4).astype("f4") for i in PHOTOS[:20]]
    made = [fingerprint(image) for image in [*originals, *darker]]
    found = twins(np.array([h for h, _ in made], np.uint64), np.stack([p for _, p in made]))
    assert found.later.tolist() == list(range(20, 40))
    assert found.earlier.tolist() == list(range(20))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 40, 3), np.uint8),
        np.full((40, 40, 1), np.nan, np.float32),
        np.full((40, 40, 2), 1e38, np.float64),
        np.ones((1, 1, 5), np.int16),
        np.array([[[np.inf], [1.0]], [[-np.inf], [np.nan]]]),
        np.ones((3, 2000, 1), np.uint16),
        np.ones((9, 9, 1), np.complex64),
    ],
)
def test_any_image_has_a_fingerprint(image):
    number, picture = fingerprint(image)
    assert 0 <= number < 2**64
    assert (picture.shape, picture.dtype) == ((256,), np.uint8)
    assert np.isfinite(gray(image)).all()


def brute(hashes, pictures, between=None) -> dict[int, int]:
    """Every pair looked at."""
    found: dict[int, int] = {}
    for j in range(len(hashes)):
        for i in range(j):
            if between is not None and not i < between <= j:
                continue
            alike = correlation(pictures[i : i + 1], pictures[j : j + 1])[0] >= SIMILARITY
            if bin(int(hashes[i] ^ hashes[j])).count("1") <= BITS and alike:
                found.setdefault(j, i)
    return found


def crowd(seed: int, count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Hashes in clusters about as wide as the limit, so that pairs lie on both sides of it."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**63, 12, dtype=np.uint64)
    faces = rng.integers(0, 256, (4, 256), dtype=np.uint8)
    which = rng.integers(0, 12, count)
    hashes = centres[which].copy()
    for number in range(count):
        for bit in rng.choice(64, rng.integers(0, 9), replace=False):
            hashes[number] ^= np.uint64(1) << np.uint64(bit)
    return hashes, faces[which % 4]


@pytest.mark.parametrize("block", [4_000_000, 50])
@pytest.mark.parametrize("between", [None, 70])
@pytest.mark.parametrize("seed", range(3))
def test_the_search_misses_nothing(seed, between, block, monkeypatch):
    monkeypatch.setattr(likeness, "_BLOCK", block)
    hashes, pictures = crowd(seed)
    found = twins(hashes, pictures, between)
    expected = brute(hashes, pictures, between)
    assert len(expected) > 20
    assert dict(zip(found.later.tolist(), found.earlier.tolist(), strict=True)) == expected


def test_counting_bits_without_numpy_2(monkeypatch):
    values = np.array([[0, 1], [2**64 - 1, 2**63 + 5]], dtype=np.uint64)
    assert likeness._count(values).tolist() == [[0, 1], [64, 3]]
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert likeness._count(values).tolist() == [[0, 1], [64, 3]]


def test_the_search_is_not_quadratic():
    """Of 20,000 images all pairs are 200 million; far fewer are compared."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 20_000, dtype=np.uint64)
    pairs = sum(len(a) * len(b) for a, b in likeness._neighbours(likeness._mixed(hashes)))
    assert pairs < 20_000**2 / 2 / 10


def test_nothing_and_one():
    for count in (0, 1):
        found = twins(np.zeros(count, np.uint64), np.zeros((count, 256), np.uint8))
        assert len(found.later) == 0
