"""The shell lines of the documentation that are no command of ours name what is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from pagelines import PAGES, ROOT, SHELL, blocks, commands, lines_of, shell


def test_a_block_is_shell_or_is_not() -> None:
    """Of a block without a language every line begins like a command, or none does: a line that is
    mistyped would otherwise be no command, and not be run.
    """
    for page in PAGES:
        for text in blocks(page, "", "bash", "sh", "console"):
            starts = {line.startswith(SHELL) for line in lines_of(text)}
            assert len(starts) == 1, f"{page.name}:\n{text}"


TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def script_options(path: Path) -> set[str]:
    """The options in a script, and in scripts beside it that it imports."""
    text = path.read_text(encoding="utf-8")
    names = {n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
    beside = [path.with_name(f"{name}.py") for name in names]
    found = [text, *(p.read_text(encoding="utf-8") for p in beside if p.exists())]
    return set(re.findall(r"\"(--[\w-]+)\"", "".join(found)))


def require_script(words: list[str]) -> None:
    script = next((w for w in words if w.endswith(".py")), None)
    if script is None:  # python -m MODULE, python -OO
        paths = [w for w in words[3:] if "/" in w]
        assert all((ROOT / p).exists() for p in paths)
        return
    assert {w for w in words if w.startswith("--")} <= script_options(ROOT / script)


def require_ranks(words: list[str]) -> None:
    """torchrun with options that the file behind it has, and ours as its module."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    end = words.index("-m") if "-m" in words else len(words)
    known = script_options(Path(spec.origin).parent / "distributed" / "run.py")
    assert {w for w in words[1:end] if w.startswith("--")} <= {*known, "--help"}
    if "-m" in words:
        assert words[end + 1] == "openmae"


def require(line: str) -> None:
    """The target, the file, the extra or the option that a shell line names is there."""
    words = shlex.split(line)
    match words[0]:
        case "make":
            assert set(words[1:]) <= TARGETS
        case "python":
            require_script(words)
        case "pip":
            extras = re.findall(r"openmae\[([\w,]+)\]", line)
            assert {e for both in extras for e in both.split(",")} <= set(
                PROJECT["optional-dependencies"]
            )
        case "torchrun":
            require_ranks(words)


OTHERS = [
    pytest.param(line, id=f"{page.stem}:{line[:60]}")
    for page in PAGES
    for line in dict.fromkeys([*commands(page), *shell(page)])
    if line.startswith(SHELL) and not line.startswith("openmae ")
]


@pytest.mark.parametrize("line", OTHERS)
def test_other_shell_lines_name_what_is_there(line: str) -> None:
    require(line)


def test_there_are_lines_of_all_kinds() -> None:
    kinds = {str(param.values[0]).split()[0] for param in OTHERS}
    assert {"make", "python", "pip", "torchrun", "sbatch"} <= kinds
