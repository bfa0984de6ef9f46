"""Pictures of masks: what is blended, which names stand in them, and the legend."""

from __future__ import annotations

import numpy as np
import pytest

from openmae.data.maskfile import Labels
from openmae.methods.segment import Segmenter
from openmae.models.encoder import Encoder
from openmae.report.classcolours import PALETTE
from openmae.report.display import visible
from openmae.report.maskpictures import (
    SheetRow,
    draw_classes,
    middle,
    percent,
    shares_of,
    sheet,
    shown_colours,
)
from openmae.report.picturestyle import GAP, LINE, Legend, Plates, shown_size

NAMES = [f"class {k}" for k in range(90)]
COLOURS = shown_colours(Labels(tuple(range(90))))


@pytest.fixture
def legends(monkeypatch):
    """Names and numbers of the legends that are drawn."""
    told: list[list[tuple[str, str]]] = []
    monkeypatch.setattr(Legend, "draw", lambda self, *_: told.append([e[1:] for e in self.entries]))
    return told


@pytest.fixture
def plates(monkeypatch):
    """Names on plates, with the pictures that they lie in."""
    told: list[tuple[str, Plates]] = []
    put = Plates.put

    def putting(self, text, *rest):
        there = put(self, text, *rest)
        told.extend([(text, self)] if there else [])
        return there

    monkeypatch.setattr(Plates, "put", putting)
    return told


def halves(size=(60, 80), left=3, right=70):
    mask = np.full(size, left, dtype=np.int64)
    mask[:, size[1] // 2 :] = right
    return mask


def drawn(mask, picture=None, **more):
    picture = np.full((*mask.shape, 3), 100, np.uint8) if picture is None else picture
    return np.asarray(draw_classes(picture, mask, NAMES, COLOURS, "a.png", **more))


def test_the_legend_names_only_what_is_there_largest_first(legends):
    mask = halves()
    mask[:30, :40] = 12
    mask[0, 0] = 88
    drawn(mask)
    assert legends == [
        [("class 70", "50.0%"), ("class 3", "25.0%"), ("class 12", "25.0%"), ("class 88", "<0.1%")]
    ]


def test_names_stand_in_what_they_name_and_small_classes_have_none(plates):
    mask = halves((300, 400))
    mask[:5, :5] = 8
    drawn(mask)
    assert sorted(text for text, _ in plates) == ["class 3", "class 70"]
    scale = shown_size(400, 300)[0] / 400
    for (text, _), box in zip(plates, plates[0][1].boxes, strict=True):
        x, y = (box[0] + box[2]) / 2 / scale, (box[1] + box[3]) / 2 / scale
        assert NAMES[mask[int(y), int(x)]] == text


def test_pixels_are_blended_at_every_size(monkeypatch):
    monkeypatch.setattr(Plates, "put", lambda *_: True)
    for size in [(6, 8), (60, 80), (600, 800), (1500, 2000)]:
        mask = halves(size)
        found = drawn(mask, opacity=0.25)
        width, height = shown_size(size[1], size[0])
        inner = found[GAP : GAP + height, GAP : GAP + width]
        for part, k in ((inner[:, : width // 2 - 2], 3), (inner[:, width // 2 + 2 :], 70)):
            assert (part == np.rint(75 + 0.25 * np.array(PALETTE[k]))).all()
        assert (inner[:, width // 2] == 0).all()  # the line between them


def test_a_class_has_its_colour_whatever_else_is_there(monkeypatch):
    monkeypatch.setattr(Plates, "put", lambda *_: True)
    one = drawn(halves(left=5, right=6))[GAP + 20, GAP + 20]
    other = drawn(halves(left=5, right=80))[GAP + 20, GAP + 20]
    assert (one == other).all()


def test_noise_is_not_hidden_below_its_lines():
    mask = np.random.default_rng(0).integers(0, 2, (480, 640))
    assert (drawn(mask)[GAP:480] == 0).all(-1).mean() < 0.05


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (20, 900), (900, 20), (32, 32), (4000, 3000)])
def test_images_of_any_size(size, plates):
    found = drawn(np.zeros(size, np.int64), title="model at step 1")
    width, height = shown_size(size[1], size[0])
    assert max(width, height) >= 480
    assert width <= 1280 or height <= 200
    assert found.shape[1] >= width + 2 * GAP
    assert found.shape[0] == GAP + LINE + GAP + height + GAP // 2 + 3 * LINE + GAP
    for _, held in plates:
        for left, top, right, bottom in held.boxes:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_a_sheet_has_shares_of_truth_and_prediction(legends):
    truth = halves((40, 60), 1, 2)
    truth[:, :15] = -1
    rows = [SheetRow("x.png", np.zeros((40, 60, 3), np.uint8), truth, halves((40, 60), 1, 4))]
    rows += [SheetRow("y.png", np.zeros((90, 30, 3), np.uint8), *2 * (halves((90, 30), 1, 2),))]
    found = sheet(rows, NAMES, COLOURS, "model")
    assert found.width >= 3 * 300
    assert [name for name, _ in legends[0]] == ["class 1", "class 2", "class 4"]
    said = 2400 / 2 + 2700 / 2
    assert dict(legends[0])["class 4"] == f"0.0% / {1200 / 5100:.1%}"
    assert dict(legends[0])["class 1"] == f"{(600 + 1350) / (1800 + 2700):.1%} / {said / 5100:.1%}"


def test_the_middle_is_in_the_thickest_part():
    inside = np.zeros((100, 200), dtype=np.bool_)
    inside[40:80, 120:160] = inside[:, 3] = True
    x, y = middle(inside)
    assert abs(x - 0.7) < 0.02
    assert abs(y - 0.6) < 0.03
    lone = np.zeros((2000, 2000), dtype=np.bool_)
    lone[1, 1] = True
    assert middle(lone) == (1.5 / 2000, 1.5 / 2000)


def test_shares_are_of_what_has_a_label():
    assert shares_of(np.array([[0, 0, 2], [-1, -1, -1]]), 3) == {0: 2 / 3, 2: 1 / 3}
    assert shares_of(np.full((2, 2), -1), 3) == {}
    assert (percent(0.0001), percent(0.0), percent(0.1234)) == ("<0.1%", "0.0%", "12.3%")


def encoder_of(channels: int, value_range: tuple[float, float] | None = None) -> Encoder:
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 1}
    found = Segmenter("vit_tiny_patch16_224", ["a"], 16, 8, channels, sizes, "linear").encoder
    found.value_range = value_range
    return found


def test_images_of_one_and_of_many_channels_are_seen():
    gray = np.random.default_rng(0).integers(0, 256, (9, 12, 1), dtype=np.uint8)
    found, words = visible(gray, encoder_of(1))
    assert (found == gray).all()
    assert words == ""
    many = np.random.default_rng(0).integers(0, 256, (9, 12, 12), dtype=np.uint8)
    found, words = visible(many, encoder_of(12))
    assert (found == many[..., [3, 2, 1]]).all()
    assert words == ", bands 4 3 2 of 12"


def test_deep_images_go_from_black_to_white():
    deep = np.linspace(-1, 3, 4000, dtype=np.float32).reshape(50, 80, 1)
    found, words = visible(deep, encoder_of(1, (0.0, 4095.0)))
    assert (found[0, 0].tolist(), found[-1, -1].tolist()) == ([0] * 3, [255] * 3)
    assert 120 < found[25, 0, 0] < 135
    assert words.startswith(", values 0:4095")


def test_dark_images_become_visible_and_large_ones_small():
    dark = np.full((8, 8, 3), 25, dtype=np.uint8)
    found, words = visible(dark, encoder_of(3))
    assert words == ", shown 10.2 times brighter"
    assert (found >= 254).all()
    large = np.full((2000, 3000, 3), 200, dtype=np.uint8)
    found, words = visible(large, encoder_of(3))
    assert found.shape == (*shown_size(3000, 2000)[::-1], 3)
    assert (found == 200).all()
