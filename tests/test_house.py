"""The rules of the house: who imports whom, how long a file may be, what stands nowhere."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import openmae
from openmae.config import TASKS, module_of

ROOT = Path(openmae.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
LEAVES = {"errors", "loopback", "randomness", "rank", "reprs"}
MAY_IMPORT = {
    "errors": set(),
    "loopback": set(),
    "randomness": set(),
    "reprs": set(),
    "rank": {"errors"},
    "config": set(),
    "models": set(),
    "data": set(),
    "engine": set(),
    "targets": {"models"},
    "methods": {"targets", "models"},
    "weights": {"methods", "targets", "models", "engine.checkpoint", "engine.tensorfile"},
    "report": {"data", "methods", "models", "weights", "engine.runfolder"},
    "tasks": {"config", "data", "engine", "methods", "targets", "models", "weights", "report"},
    "cli": {"answers", "config", "launch", "words"},
    "words": {"config"},
    "answers": {"words"},
    "launch": {"engine.runfolder"},
    "__main__": {"cli"},
}
LAZY = {"cli": {"tasks"}}
TREES = {name: ast.parse((ROOT / name).read_text(encoding="utf-8")) for name in NAMES}


def imported(node: ast.AST, inside: bool = False) -> list[tuple[str, bool]]:
    """(what of ours below a node is imported, whether in a function); relative to `openmae`."""
    found: list[tuple[str, bool]] = []
    for child in ast.iter_child_nodes(node):
        lazy = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.Import):
            found += [(a.name, lazy) for a in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "imports are absolute"
            folder = ROOT.joinpath(*(child.module or "").split(".")[1:])
            submodules = [
                a.name
                for a in child.names
                if (folder / f"{a.name}.py").exists() or (folder / a.name).is_dir()
            ]
            ours = (child.module or "").split(".")[0] == "openmae"
            whole = [f"{child.module}.{n}" for n in submodules] if ours and submodules else []
            found += [(m, lazy) for m in whole or [child.module or ""]]
        elif isinstance(child, ast.Call) and child.args and called(child) == "import_module":
            found += [(literal(child.args[0]), lazy)]
        found += imported(child, lazy)
    return [(m.removeprefix("openmae").lstrip("."), z) for m, z in found if is_ours(m)]


def is_ours(module: str) -> bool:
    return module.split(".")[0] == "openmae" or module.split(".")[0] in {*MAY_IMPORT, ""}


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def literal(node: ast.AST) -> str:
    """The text of a string, up to its first computed part."""
    node = node.values[0] if isinstance(node, ast.JoinedStr) else node
    return str(node.value) if isinstance(node, ast.Constant) else "(computed)"


def allowed(part: str, module: str, lazy: bool) -> bool:
    names = MAY_IMPORT[part] | (LEAVES if part not in LEAVES else set())
    names |= LAZY.get(part, set()) if lazy else set()
    return module == "" or any(module == n or module.startswith(f"{n}.") for n in {*names, part})


@pytest.mark.parametrize("name", [n for n in NAMES if n != "__init__.py"])
def test_imports(name):
    part = Path(name).parts[0].removesuffix(".py")
    assert part in MAY_IMPORT
    wrong = [m for m, lazy in imported(TREES[name]) if not allowed(part, m, lazy)]
    assert wrong == []


def test_the_rule_can_fail():
    source = "from openmae.tasks import knn\ndef f():\n    import openmae.tasks.probe"
    assert imported(ast.parse(source)) == [("tasks.knn", False), ("tasks.probe", True)]
    assert not allowed("models", "tasks.knn", True)
    assert not allowed("cli", "tasks.knn", False)
    assert allowed("cli", "tasks.knn", True)
    assert not allowed("weights", "engine.loop", False)
    assert not allowed("errors", "randomness", False)


def test_the_package_itself_imports_lazily():
    tree = TREES["__init__.py"]
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in top}
    assert modules == {"__future__", "importlib", "typing"}


# Sizes.


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_are_short(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 300
    functions = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.FunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > 60]
    assert long == []


def test_files_of_tests_are_short():
    here = Path(__file__).parent
    long = [p.name for p in here.rglob("*.py") if len(p.read_text().splitlines()) > 300]
    assert long == []


def test_names_of_test_files_are_unlike():
    """The folders are no packages, so pytest takes two files of one name for the same."""
    names = [p.name for p in Path(__file__).parent.rglob("*.py") if p.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)


def test_no_drawer_for_the_rest():
    drawers = {"utils", "util", "misc", "common", "helpers"}
    assert [n for n in NAMES if set(Path(n).with_suffix("").parts) & drawers] == []


# Words.


@pytest.mark.parametrize("name", NAMES)
def test_public_things_have_docstrings(name):
    tree = TREES[name]
    assert ast.get_docstring(tree)
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []


@pytest.mark.parametrize("task", TASKS)
def test_every_command_has_its_task(task):
    module = importlib.import_module(f"openmae.tasks.{module_of(task)}")
    assert callable(module.run)
    assert module.run.__doc__
    assert TASKS[task][1].endswith(".")


READS_PICKLES = "weights/container.py"
FORBIDDEN = re.compile(
    r"pickle|trust_remote_code|(?<![\w.])(?:eval|exec)\("
)  # model.eval() is fine


@pytest.mark.parametrize("name", NAMES)
def test_no_code_from_data(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    refused = "allow_pickle=False"  # NumPy's word for never reading one
    found = [line for line in lines if FORBIDDEN.search(line.replace(refused, ""))]
    if name == READS_PICKLES:  # says that it never runs one, and reads with weights_only=True
        found = [line for line in found if "import" in line or "eval(" in line or "exec(" in line]
    assert found == []


def test_forbidden_words_are_found():
    assert FORBIDDEN.search("import pickle")
    assert FORBIDDEN.search("x = eval(text)")
    assert FORBIDDEN.search("np.load(path, allow_pickle=True)")
    assert not FORBIDDEN.search("model.eval()")
