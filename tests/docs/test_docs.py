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

from openmae.cli import check
from openmae.config import TASKS
from openmae.errors import UsageError

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(?P<kind>[\w{}-]*)[^\n]*\n(?P<text>.*?)^```", re.M | re.S)
INDENTED = re.compile(r"^ {4}(openmae [^\n]+)$", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACES = {"DATA": "data", "RUN": "runs/x", "FILE": "file.safetensors", "NAME": "x", "S": "0"}
EXAMPLES = ("...",)  # a line with this word leaves something out on purpose


def commands(page: Path) -> list[str]:
    """The command lines of a page: in blocks without a language, and indented ones."""
    text = page.read_text(encoding="utf-8")
    found = INDENTED.findall(BLOCK.sub("", text))
    for block in BLOCK.finditer(text):
        if block["kind"] in ("", "bash", "sh", "console"):
            whole = block["text"].replace("\\\n", " ")
            found += [line.strip() for line in whole.splitlines()]
    return [re.sub(r"\s+#.*$", "", line).removeprefix("$ ") for line in found]


def told(page: Path) -> list[str]:
    """Those of openmae that are whole."""
    own = [line for line in commands(page) if line.startswith("openmae ")]
    return [line for line in own if not any(word in line for word in EXAMPLES)]


LINES = [pytest.param(line, id=f"{p.stem}:{line[:60]}") for p in PAGES for line in told(p)]


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_taken(line: str) -> None:
    words = shlex.split(line.split(" | ")[0].split(" && ")[0])[1:]
    words = [PLACES.get(word, word) for word in words if not word.startswith("[")]
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
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = [b["text"] for b in BLOCK.finditer(text) if b["kind"] == "python"]
    assert blocks
    space: dict[str, object] = {}
    for block in blocks:
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
