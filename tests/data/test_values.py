"""From the values of a file to those of a sample: ranges, bands, channels."""

from __future__ import annotations

import numpy as np
import pytest

from openmae.config.training import parse_range
from openmae.data.values import Decoding, auto_range, fit_channels, unit_scale
from openmae.errors import DataError

RNG = np.random.default_rng(0)


def test_8_bit_images_stay_as_they_are():
    image = RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    found = Decoding(3, mean=(0.5,) * 3, std=(0.1,) * 3)(image)
    assert found is image


def test_bits_become_black_and_white():
    image = np.array([[[True], [False]]])
    assert Decoding()(image).tolist() == [[[255], [0]]]


@pytest.mark.parametrize(
    "kind", ["uint16", "int16", "uint32", "int32", "float32", "float64", "int64"]
)
def test_deep_values_come_back_exactly(kind):
    values = RNG.normal(size=(7, 5, 4)) * 1000
    image = (np.abs(values) if np.dtype(kind).kind == "u" else values).astype(kind)
    low, high = -3000.0, 5000.0
    unit = Decoding(4, value_range=(low, high))(image)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(
        unit.astype(np.float64) * (high - low) + low, image, rtol=0, atol=(high - low) * 2e-7
    )


def test_nothing_passes_through_8_bits():
    image = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    unit = Decoding(1, value_range=(0, 65535))(image)
    assert len(np.unique(unit)) == 65536
    np.testing.assert_array_equal(np.rint(unit * np.float32(65535)).astype(np.uint16), image)


def test_values_outside_the_range_are_not_cut_off():
    image = np.array([[[-10.0], [20.0]]])
    assert Decoding(1, value_range=(0, 10))(image).ravel().tolist() == [-1.0, 2.0]


def test_no_data_becomes_the_lower_end():
    image = np.array([[[np.nan], [np.inf], [5.0]]])
    assert unit_scale(image, (0, 10)).ravel().tolist() == [0.0, 0.0, 0.5]
    with pytest.raises(DataError, match="no value is a number"):
        unit_scale(image[:, :2], (0, 10))


def test_8_bit_files_among_deep_ones_keep_their_own_scale():
    image = np.array([[[0], [255]]], dtype=np.uint8)
    assert Decoding(1, value_range=(0, 65535))(image).ravel().tolist() == [0.0, 1.0]


def test_deep_samples_are_normalised():
    image = RNG.integers(0, 4096, (6, 6, 2), dtype=np.uint16)
    found = Decoding(2, value_range=(0, 4095), mean=(0.4, 0.6), std=(0.2, 0.3))(image)
    expected = (image / 4095 - [0.4, 0.6]) / [0.2, 0.3]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bands_select_and_order():
    image = RNG.integers(0, 256, (4, 4, 5), dtype=np.uint8)
    found = Decoding(2, bands=(4, 1))(image)
    np.testing.assert_array_equal(found, image[..., [4, 1]])
    with pytest.raises(DataError, match="has 5 bands, --bands asks for number 6"):
        Decoding(1, bands=(5,))(image)


def test_deep_images_need_a_range():
    with pytest.raises(DataError, match="uint16 values where 8-bit ones are read"):
        Decoding(1)(np.zeros((2, 2, 1), dtype=np.uint16))


def test_channels():
    gray, colour = np.float32(RNG.random((3, 4, 1))), np.float32(RNG.random((3, 4, 4)))
    assert (fit_channels(gray, 3) == gray).all()
    np.testing.assert_array_equal(fit_channels(colour, 3), colour[..., :3])
    luma = colour[..., :3] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(fit_channels(colour, 1)[..., 0], luma, atol=1e-6)
    with pytest.raises(DataError, match="has 4 channels, not 5"):
        fit_channels(colour, 5)


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (0, 4095, "u", (0, 4095)),
        (81, 1703, "u", (0, 2047)),
        (0, 200, "u", (0, 255)),
        (0, 65535, "u", (0, 65535)),
        (54, 6732, "i", (0, 8191)),
        (0, 0, "u", (0, 255)),
        (-5, 300, "i", (-5, 300)),
        (0.0, 1.0, "f", (0, 1)),
        (-31.8, 0.46, "f", (-31.8, 0.46)),
        (7.0, 7.0, "f", (7, 8)),
    ],
)
def test_auto_range(low, high, kind, expected):
    assert auto_range([low, high], [high, low], kind) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:65535", (0, 65535)),
        ("0-65535", (0, 65535)),
        ("-30:5", (-30, 5)),
        ("-30--5", (-30, -5)),
        ("1e-3:2e-3", (1e-3, 2e-3)),
        ("1e-3-2e-3", (1e-3, 2e-3)),
    ],
)
def test_ranges_as_they_are_typed(text, expected):
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["", "5", "5:5", "9:1", "a:b", "0:nan", "0:inf", "-", ":"])
def test_no_ranges(text):
    with pytest.raises(ValueError, match="LOW:HIGH"):
        parse_range(text)
