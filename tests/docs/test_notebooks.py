"""The notebooks run from the first cell to the last, on little, and are stored without output."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import openmae

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENMAE_NOTEBOOK_EPOCHS", "1")
    monkeypatch.setenv("OPENMAE_NOTEBOOK_IMAGES", "120")


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01-first-run", "02-your-images"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_nothing_is_stored_but_the_words(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in found["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert "# %pip install openmae" in cells(path, "code")[0]
    for link in re.findall(r"\]\(([^)]+)\)", "".join(cells(path, "markdown"))):
        assert (path.parent / link).exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_runs(path: Path, here, tmp_path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(cells(path, "code")):
        exec(compile(code, f"{path.name}, cell {number}", "exec"), names)
    run = tmp_path / str(names["RUN"])
    assert (run / "encoder.safetensors").exists()
    if path.stem.startswith("01"):
        for name in ("digits.png", "ratios.png", "attention.png"):
            assert "base64" in openmae.show(run / name)._repr_html_()
    else:
        assert (run / "map.html").stat().st_size < 2e6
        assert (run / "finetune-digits" / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_kernel_runs_it(path: Path, here, tmp_path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "."}}).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    pages = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert any("data:image/png;base64," in page for page in pages)  # show displays
    assert any("<table>" in page for page in pages)
