"""The page of every error that a command can end with, read from the code: its exit code and its
words, with what is filled in as `{name}`.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from openmae import errors

SOURCE = Path(__file__).parents[2] / "src" / "openmae"
BASES = {
    name: found.exit_code
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, errors.OpenMAEError)
}
FILLED = re.compile(r"\{[^}]*\}")
TITLES = {
    2: "2: the words of the command or call",
    3: "3: data",
    4: "4: storage",
    5: "5: memory",
    6: "6: diverged",
}
AREAS = {  # first part of a module's name -> whose errors they are
    "cli": "the command line",
    "config": "settings and recipes",
    "data": "images, labels, loading",
    "engine": "the training loop and checkpoints",
    "launch": "several ranks",
    "methods": "methods",
    "models": "models",
    "report": "pages and pictures",
    "targets": "what is predicted",
    "tasks": "commands",
    "weights": "encoder files and other formats",
}


@dataclass(frozen=True)
class Message:
    """An error as it stands in the code."""

    code: int
    module: str
    text: str


@functools.cache
def messages() -> tuple[Message, ...]:
    """All errors of the package with words of their own, in the order of the files."""
    found: list[Message] = []
    paths = sorted(SOURCE.rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    every = _functions(node for tree in trees.values() for node in tree.body)
    kinds = _kinds(trees.values())
    for path, tree in trees.items():
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        makers = every | _functions(tree.body)
        for name, call, inside in _calls(tree, kinds):
            code = kinds[name]
            for words in _alternatives(call.args[0], inside, makers) if call.args else ():
                if code in TITLES and any(map(str.isalpha, FILLED.sub("", words))):
                    found.append(Message(code, module, " ".join(words.split())))
    return tuple(dict.fromkeys(found))


def page() -> str:
    """The page, by exit code and part of the package."""
    parts = [
        "# Every error\n\nWhat a command can say when it ends with an error, read from the code, by"
        " [exit code](/errors.md); `{name}` is filled in, and most name the fix. An option's own"
        " range (`--lr -1: should be greater than 0`) is checked from its type and not listed.\n"
    ]
    every = messages()
    for code, title in TITLES.items():
        parts.append(f"## {title}\n")
        for area in sorted({m.module.split(".")[0] for m in every if m.code == code}):
            own = [m.text for m in every if m.code == code and m.module.split(".")[0] == area]
            parts.append(f"### {AREAS.get(area, area).capitalize()} ({code})\n")
            parts.append("\n".join(f"- {_shown(text)}" for text in dict.fromkeys(own)) + "\n")
    return "\n".join(parts)


def _kinds(trees: Iterable[ast.Module]) -> dict[str, int]:
    """The exit code of each class of errors; a class made of one elsewhere has its code."""
    found = dict(BASES)
    for node in (node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)):
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in BASES:
                found.setdefault(node.name, BASES[base.id])
    return found


def _calls(tree: ast.Module, kinds: Mapping[str, int]) -> Iterator[tuple[str, ast.Call, ast.AST]]:
    """Every making of an error, by the name of its class, with the function it stands in."""
    inside: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(tree):  # breadth first: the innermost function is the last to say so
        if isinstance(node, ast.FunctionDef | ast.Module):
            inside |= dict.fromkeys(ast.walk(node), node)
    for node, function in inside.items():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            yield node.func.id, node, function


def _functions(nodes: Iterable[ast.AST]) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def _alternatives(
    node: ast.expr, inside: ast.AST, makers: dict[str, ast.FunctionDef]
) -> Iterator[str]:
    """What an error may say: more than one thing where a function makes the words."""
    if isinstance(node, ast.Name) and isinstance(found := _said(inside).get(node.id), ast.Call):
        node = found
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers:
        maker = makers[node.func.id]
        for line in ast.walk(maker):
            if isinstance(line, ast.Return) and line.value is not None:
                yield _text(line.value, _said(maker))
    else:
        yield _text(node, _said(inside))


@functools.cache
def _said(function: ast.AST) -> dict[str, ast.expr]:
    """The names of a function that are given once, which may be words."""
    given: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            given.setdefault(node.targets[0].id, []).append(node.value)
        if isinstance(node, ast.NamedExpr):
            given.setdefault(node.target.id, []).append(node.value)
    return {name: values[0] for name, values in given.items() if len(values) == 1}


def _text(node: ast.expr, said: dict[str, ast.expr]) -> str:
    """The words of an expression; what is not known before the error is `{name}`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, said) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, said) + _text(node.right, said)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, said)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "spell":
        return _option(node)
    if isinstance(node, ast.Name) and isinstance(said.get(node.id), ast.Constant | ast.JoinedStr):
        return _text(said[node.id], {})
    return "{" + _name(node) + "}"


def _option(call: ast.Call) -> str:
    """What `spell` makes of a setting's name for the command line."""
    told = call.args[0] if call.args else call
    known = isinstance(told, ast.Constant)
    return "--" + (str(told.value).replace("_", "-") if known else "{" + _name(told) + "}")


def _name(node: ast.expr) -> str:
    """A short name of what is filled in."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").lower()
        case ast.Constant(value=value):
            return str(value)
        case ast.Subscript(value=_, slice=ast.Constant(value=str(key))):
            return key
        case ast.Subscript(value=value):
            return _name(value)
        case ast.Call(func=ast.Name(id="len"), args=[counted]):
            return f"number of {_name(counted)}"
        case ast.Call(func=ast.Attribute(attr="join"), args=[parts]):
            return _name(parts)
        case ast.Call(func=ast.Attribute(value=value)):
            return _name(value)
        case ast.Call(args=[first, *_]):
            return _name(first)
        case ast.GeneratorExp() | ast.ListComp() | ast.SetComp():
            return _name(node.generators[0].iter)
        case ast.IfExp(body=body):
            return _name(body)
        case ast.BinOp(left=left):
            return _name(left)
    return "..."


def _shown(text: str) -> str:
    """As code, with a fence that the text does not have."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"
