"""The documentation is true: every command in it is taken, every link has a target, every
page is in the list, and what is made from the code is complete.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from pagelines import BLOCK, PAGES, ROOT, blocks, told, words_of

from openmae.cli import check
from openmae.config import TASKS
from openmae.errors import UsageError

LINK = re.compile(r"\]\(([^)\s]+)\)")
LINES = [pytest.param(line, id=f"{p.stem}:{line[:60]}") for p in PAGES for line in told(p)]


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_taken(line: str) -> None:
    words = words_of(line)
    if "--help" in words or "--version" in words:
        return
    try:
        check([w for w in words if w not in ("--dry-run", "--json", "--debug")])
    except UsageError as error:
        pytest.fail(str(error))


def test_there_are_commands() -> None:
    assert len(LINES) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_have_targets(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"https?:|mailto:|#", link):
            continue
        target = link.partition("#")[0]
        if target.startswith("generated/"):
            known = {"commands", "recipes", "errors", *(t.replace(" ", "-") for t in TASKS)}
            assert Path(target).stem in known, link
            continue
        assert (page.parent / target).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_list() -> None:
    listed = set(re.findall(r"^[\w/-]+$", (ROOT / "docs/index.md").read_text(), re.M))
    pages = {p.stem for p in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= listed
    assert {n for n in listed if "/" not in n} <= pages


def loaded(path: str):
    """A script of docs/ as a module; its neighbours can be imported, as Sphinx has it."""
    sys.path.insert(0, str((ROOT / "docs" / path).parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "docs" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module


def test_the_reference_has_every_command_and_recipe(tmp_path: Path) -> None:
    loaded("_ext/commands.py").write(tmp_path)
    assert {p.stem for p in tmp_path.iterdir()} == {
        "commands", "recipes", "errors", *(t.replace(" ", "-") for t in TASKS)
    }  # fmt: skip
    text = (tmp_path / "pretrain.md").read_text()
    assert (
        "| `--mask-ratio` | `0.75` | share of the patches to hide | needs `--allow-change` |"
        in text
    )
    for path in (ROOT / "src/openmae/recipes").glob("*/*.yaml"):
        assert f"| `{path.stem}` |" in (tmp_path / "recipes.md").read_text()


@pytest.mark.parametrize("page", ["tutorial", "python"])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / "docs" / f"{page}.md", "python")
    assert found
    space: dict[str, object] = {}
    for block in found:
        exec(compile(block, page, "exec"), space)


@pytest.mark.slow
def test_the_tutorial_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmae.cli import main

    monkeypatch.chdir(tmp_path)
    for line in told(ROOT / "docs/tutorial.md"):
        assert main(shlex.split(line)[1:]) == 0, line
    for name in ("picture.png", "features.npz", "predictions.csv"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.slow
def test_the_figures_are_made(tmp_path: Path) -> None:
    loaded("figures/how_mae_works.py").main(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        p.name for p in (ROOT / "docs/images").glob("how-*")
    }


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="the docs extra is not installed")
    from sphinx.cmd.build import build_main

    assert build_main(["-W", "--keep-going", "-q", str(ROOT / "docs"), str(tmp_path)]) == 0
