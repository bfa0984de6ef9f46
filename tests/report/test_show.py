"""How runs, results, models and pictures look where Python shows them."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_options import TINY_MAE

import openmae
from openmae.engine.runfolder import Results
from openmae.errors import DataError, UsageError

HOSTILE = "<img src=x onerror=alert(1)>&\"'\n\udcff"


@pytest.fixture
def finished(tmp_path) -> Path:
    """A run folder of two logged rows and three pictures."""
    run = tmp_path / "run <b>"
    (run / "pictures").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"task": "pretrain", "resolved": {}}))
    (run / "status.json").write_text(json.dumps({"state": "done", "step": 20, "total": 20}))
    rows = [{"step": s, "epoch": s / 10, "loss": 1 / s} for s in (10, 20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text + '{"step": 2')
    for step in (5, 10, 9):
        Image.new("RGB", (step, 4)).save(run / "pictures" / f"step_{step:08d}.png")
    return run


def decoded(shown, number: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(shown.pictures[number][2]))


def test_a_run_shows_its_curve_and_its_last_picture(finished, capsys):
    before = sorted(finished.rglob("*"))
    shown = openmae.show(finished)
    assert sorted(finished.rglob("*")) == before
    assert shown.values["state"] == "done"
    assert shown.values["loss"] == 0.05
    assert [Path(name).name for name, _, _ in shown.pictures] == ["loss.png", "step_00000010.png"]
    assert decoded(shown, 1).size == (10, 4)
    printed = capsys.readouterr().out
    assert "20 of 20" in printed
    assert "step_00000010.png" in printed
    page = shown._repr_html_()
    assert page.count("<img ") == 2
    assert "<b>" not in page


def test_results_are_a_dict_with_a_table():
    results = Results({"loss": 0.123456789, HOSTILE: HOSTILE}, Path("runs/x"))
    assert results == {"loss": 0.123456789, HOSTILE: HOSTILE}
    assert json.loads(json.dumps(results))["loss"] == 0.123456789
    lines = repr(results).splitlines()
    assert len(lines) == 3
    assert "runs/x" in lines[0]
    assert "0.123457" in lines[1]
    page = results._repr_html_()
    page.encode()
    assert "<img" not in page
    assert page.count("<tr>") == 2
    assert openmae.show(results) is results


def test_a_model_says_what_it_is():
    model = openmae.MAE(**TINY_MAE)
    words = repr(model)
    assert f"{sum(p.numel() for p in model.parameters()):,}" in words
    assert re.search(r"images +32 x 48 px, 3 channels", words)
    assert re.search(r"mask_ratio +0\.75", words)
    assert "mask" not in repr(model.encoder)
    assert "<td" in model._repr_html_()
    assert openmae.show(model) is model
    assert "Linear(" in torch.nn.Module.__repr__(model)


def test_pictures_of_all_kinds(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    chw = torch.from_numpy(image).permute(2, 0, 1)
    for thing in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image), image, chw):
        np.testing.assert_array_equal(np.asarray(decoded(openmae.show(thing))), image)
    unit = openmae.show(chw.float() / 255)
    np.testing.assert_array_equal(np.asarray(decoded(unit)), image)
    assert decoded(openmae.show(torch.stack([chw, chw]))).size == (14, 5)
    gray = openmae.show(np.array([[-1.0, 3.0], [1.0, np.nan]]))
    assert np.asarray(decoded(gray))[..., 0].tolist() == [[0, 255], [128, 128]]
    assert "values -1 to 3" in repr(gray)
    assert "first 3 of 13 channels" in repr(openmae.show(torch.rand(13, 4, 4)))


def test_what_is_nothing_to_show_is_said(tmp_path):
    for thing in (3, [1], np.zeros(4), tmp_path):
        with pytest.raises(UsageError, match="show"):
            openmae.show(thing)
    with pytest.raises(DataError, match="does not exist"):
        openmae.show(tmp_path / "missing")


def test_a_notebook_displays_it(finished, monkeypatch):
    seen = []
    fake = types.ModuleType("IPython")
    fake.get_ipython = lambda: types.SimpleNamespace(kernel=1)
    fake.display = types.ModuleType("IPython.display")
    fake.display.display = seen.append
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    assert openmae.show(finished) is None
    data = re.findall(r"base64,([^\"]+)", seen[0]._repr_html_())
    assert [base64.b64decode(d)[:4] for d in data] == [b"\x89PNG"] * 2


def test_matplotlib_waits_until_it_is_used():
    words = (
        "import sys, openmae; openmae.show; from openmae.engine.runfolder import Results;"
        "openmae.show(Results({})); assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", words], check=True, timeout=60, capture_output=True)
