"""The demo in a real browser (headless Chromium): what a person does, and what they then see."""

from __future__ import annotations

import re

import pytest
from browsers import needs_chromium, violations
from demorunning import photo

from openmae.report.explorerpage import static_page

pytest.importorskip("fastapi", reason="demo needs FastAPI")
api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
pytestmark = needs_chromium
expect = api.expect


@pytest.fixture
def page(browser):
    """A page that fails the test for an error in its console, or for a request to elsewhere."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made = context.new_page()
    made.set_default_timeout(20_000)
    wrong: list[str] = []
    made.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    outside = re.compile(r"(https?://127\.0\.0\.1:\d+/|data:|blob:|file:)")
    made.on("request", lambda r: None if outside.match(r.url) else wrong.append(r.url))
    made.wrong = wrong
    yield made
    context.close()
    assert made.wrong == []


def opened(page, running) -> None:
    page.goto(running.address)
    expect(page.locator("#mse")).not_to_have_text("-")


def picture(page, name: str) -> str:
    """What a canvas shows."""
    return page.evaluate(f"document.getElementById('c-{name}').toDataURL()")


def settled(page) -> None:
    expect(page.locator("#pictures")).not_to_have_class(re.compile("busy"))


def middle(page, name: str, row: int, column: int) -> tuple[float, float]:
    """The place of a patch on the screen; the grid is 4 x 6."""
    canvas = page.locator(f"#c-{name}")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    across, down = (column + 0.5) / 6, (row + 0.5) / 4
    return box["x"] + box["width"] * across, box["y"] + box["height"] * down


def test_an_image_a_slider_and_a_brush(page, running):
    opened(page, running)
    assert "?" not in page.url  # the token is not left in the address
    expect(page.locator("#count")).to_have_text("18 of 24")
    first = page.locator("#mse").text_content()
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": photo()})
    expect(page.locator("#name")).to_have_text("a.png")
    expect(page.locator("#mse")).not_to_have_text(first)
    expect(page.locator("#command")).to_contain_text("a.png --mask-ratio 0.75 --seed 0")

    page.locator("#ratio").fill("50")
    expect(page.locator("#count")).to_have_text("12 of 24")
    expect(page.locator("#ratio-value")).to_have_text("50 %")
    settled(page)
    before = {name: picture(page, name) for name in ("original", "masked", "output", "error")}
    page.locator("#reseed").click()
    expect(page.locator("#command")).to_contain_text("--seed 1")
    settled(page)
    assert picture(page, "original") == before["original"]
    for name in ("masked", "output", "error"):
        assert picture(page, name) != before[name]

    page.mouse.move(*middle(page, "masked", 0, 0))
    page.mouse.down()
    page.mouse.move(*middle(page, "masked", 0, 3), steps=8)
    page.mouse.up()
    expect(page.locator("#command")).to_contain_text("--hide")
    expect(page.locator("#unpaint")).to_be_visible()
    settled(page)
    assert re.search(r"^\d+ of 24 patches hidden\. .*MSE", page.locator("#live").text_content())
    page.locator("#unpaint").click()
    expect(page.locator("#count")).to_have_text("12 of 24")


def test_dropped_files_and_broken_ones(page, running):
    opened(page, running)
    drop = """(bytes) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], 'dropped.png', {type: 'image/png'}));
      document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
    }"""
    page.evaluate(drop, list(photo()))
    expect(page.locator("#name")).to_have_text("dropped.png")
    settled(page)
    page.evaluate(drop, list(photo()[:200]))
    expect(page.locator("#trouble")).to_contain_text("dropped.png: ")
    assert len(page.wrong) == 1  # Chromium itself notes the status 400
    assert "400" in page.wrong.pop()
    page.locator("#after").click()
    expect(page.locator("#name")).to_have_text("picture 1.png")
    expect(page.locator("#trouble")).to_have_text("")


def test_the_keyboard_is_enough(page, running):
    opened(page, running)
    page.locator("#c-masked").focus()
    hidden = int(page.locator("#count").text_content().split()[0])
    for key in ("ArrowDown", "ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("#live")).to_contain_text("row 2, column 3")
    page.keyboard.press(" ")
    expect(page.locator("#command")).to_contain_text("--hide")
    expect(page.locator("#count")).not_to_have_text(f"{hidden} of 24")
    page.locator("#c-original").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#heads figure")).to_have_count(3)  # the mean and two heads
    expect(page.locator("#attention-help")).to_contain_text("row 1, column 1")


def test_checkpoints_masks_and_the_cheating_scale(page, running):
    opened(page, running)
    now = page.locator("#mse").text_content()
    page.locator("#step").fill("0")
    expect(page.locator("#step-value")).to_have_text("10")
    expect(page.locator("#command")).to_contain_text("--step 10")
    expect(page.locator("#mse")).not_to_have_text(now)
    page.locator("#step").fill("1")
    expect(page.locator("#mse")).to_have_text(now)
    page.get_by_label("grid").check()
    expect(page.locator("#command")).to_contain_text("--mask grid --mask-ratio 0.75")
    page.locator("#cheat").check()
    expect(page.locator("#honest")).to_contain_text("LEAKS")
    expect(page.locator("#command")).to_contain_text("--cheat-scale")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_accessible(page, running, width, scheme):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    opened(page, running)
    page.mouse.click(*middle(page, "original", 1, 1))
    expect(page.locator("#heads figure")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []


def test_the_static_file_works_without_a_server(page, explore, tmp_path):
    path = tmp_path / "demo.html"
    path.write_text(static_page(explore(), 2, seeds=(0, 1), ratios=(0.5,)), encoding="utf-8")
    page.goto(path.as_uri())
    expect(page.locator("#count")).to_have_text("18 of 24")
    expect(page.locator("#file")).to_be_hidden()
    before = picture(page, "masked")
    page.locator("#ratio").fill("40")
    expect(page.locator("#ratio-value")).to_have_text("50 %")
    expect(page.locator("#count")).to_have_text("12 of 24")
    page.get_by_label("block").check()
    page.locator("#reseed").click()
    expect(page.locator("#command")).to_contain_text("--mask block --mask-ratio 0.5 --seed 1")
    assert picture(page, "masked") != before
    page.locator("#after").click()
    expect(page.locator("#name")).to_have_text("picture 1.png")
    assert violations(page) == []
