"""The map as a page: what stands in it, how large it gets, and what a person does with it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from browsers import needs_chromium, violations
from PIL import Image

from openmae.report import mappage
from openmae.report.mappage import COLOURS, SHAPES, map_page, small, spaced

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\n\udcff"


def png(seed: int, side: int = 96, channels: int = 3) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, channels), np.uint8)
    Image.fromarray(pixels.squeeze()).convert("RGB").save(file, "PNG")
    return file.getvalue()


def page_of(count: int, classes=("ant", "bee"), picture=lambda i: png(i % 7, 8), name="{}/{}.png"):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % max(len(classes), 1) - (0 if classes else 1)
    names = [name.replace("{}", str(i)) for i in range(count)]
    return map_page(rng.normal(size=(count, 2)), labels, classes, names, picture, "A title", "note")


def data_of(page: str) -> dict:
    (told,) = re.findall(r"^const D = (\{.*\});$", page, re.M)
    return json.loads(told)


def test_the_data_are_the_points():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(50, 2)) * [3, 1]
    labels = np.where(np.arange(50) == 4, -1, np.arange(50) % 2)
    names = [f"{i}.png" for i in range(50)]
    found = data_of(map_page(points, labels, ["a", "b"], names, lambda i: png(i), "t"))
    spread = np.ptp(points[:, 0])
    x, y = np.array(found["x"]) / 10_000 * spread, -np.array(found["y"]) / 10_000 * spread
    np.testing.assert_allclose(x - x[0], points[:, 0] - points[0, 0], atol=2e-4 * spread)
    np.testing.assert_allclose(y - y[0], points[:, 1] - points[0, 1], atol=2e-4 * spread)
    assert min(found["x"] + found["y"]) >= 0
    assert max(found["x"] + found["y"]) <= 10_000
    assert found["k"] == labels.tolist()
    assert found["n"] == names
    for told in found["t"]:
        with Image.open(io.BytesIO(base64.b64decode(told.split(",")[1]))) as image:
            assert image.size == (48, 48)


def test_only_its_own_script_runs_and_names_are_harmless():
    page = page_of(5, (HOSTILE, "bee"), name=HOSTILE)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "<img src=x" not in page
    assert "http" not in page.replace("http-equiv", "")
    plain = HOSTILE.encode("utf-8", "backslashreplace").decode()
    assert data_of(page)["n"][0] == data_of(page)["classes"][0] == plain


def test_the_file_is_bounded_and_says_what_was_left_out(monkeypatch):
    monkeypatch.setattr(mappage, "MOST_POINTS", 60)
    monkeypatch.setattr(mappage, "MOST_PICTURES", 40)
    page = page_of(200, picture=lambda i: png(i % 7, 48))
    found = data_of(page)
    assert len(found["x"]) == 60
    assert sum(map(bool, found["t"])) == 40
    assert "60 of 200 images are drawn; 40 of 60 points have a picture" in page
    monkeypatch.setattr(mappage, "PICTURE_BYTES", 20_000)
    fewer = [t for t in data_of(page_of(200, picture=lambda i: png(i % 7, 48)))["t"] if t]
    assert 0 < len(fewer) < 40
    assert sum(len(t) * 3 / 4 for t in fewer) < 21_000
    assert "evenly spaced" not in page_of(30)


def test_the_largest_page_is_below_ten_megabytes():
    once = png(0, 48)
    page = page_of(30_000, picture=lambda i: once, name="x" * 300)
    assert len(page.encode()) < 10e6


def test_what_cannot_be_read_has_no_picture():
    found = data_of(page_of(4, picture=lambda i: None if i == 2 else png(i)))["t"]
    assert [bool(t) for t in found] == [True, True, False, True]


def test_small_pictures_keep_pixels_where_they_can():
    with Image.open(io.BytesIO(png(3, 8, 1))) as before:
        kind, told = small(png(3, 8, 1)).split(";base64,")
        assert kind == "png"
        with Image.open(io.BytesIO(base64.b64decode(told))) as after:
            np.testing.assert_array_equal(np.asarray(after.convert("RGB")), np.asarray(before))
    assert len(small(png(0, 96))) < 6_000


def test_marks_of_classes_differ():
    marks = {(k % len(COLOURS), k % len(SHAPES)) for k in range(42)}
    assert len(marks) == 42
    assert "marks repeat" in page_of(50, [f"class {i}" for i in range(43)])
    assert "data-class" not in re.sub(r"<script>.*</script>", "", page_of(5, ()), flags=re.S)


def test_rows_are_evenly_spaced():
    assert spaced(5, 10) == [0, 1, 2, 3, 4]
    assert spaced(101, 3) == [0, 50, 100]


@needs_chromium
def test_a_person_searches_pins_hides_and_zooms(browser, tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    file = tmp_path / "map.html"
    file.write_text(page_of(60), encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(file.as_uri())
    page.fill("#search", "31/31.")
    api.expect(page.locator("#found")).to_have_text("1 fits")
    page.press("#search", "Enter")
    api.expect(page.locator("#name")).to_have_text("31/31.png")
    api.expect(page.locator("#class")).to_have_text("bee")
    api.expect(page.locator("#face")).to_be_visible()
    box, card = page.locator("#map").bounding_box(), page.locator("#card").bounding_box()
    assert box["x"] <= card["x"] <= box["x"] + box["width"] - card["width"]
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    api.expect(page.locator("#pinned li")).to_have_count(1)
    before = page.evaluate("document.getElementById('map').toDataURL()")
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    assert page.evaluate("document.getElementById('map').toDataURL()") != before
    page.click("[data-class='1']")
    api.expect(page.locator("[data-class='1']")).to_have_attribute("aria-pressed", "false")
    page.click("#pinned button")
    api.expect(page.locator("#pins")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert violations(page) == []
    page.close()
    assert wrong == []
