"""Pages made from the code when the documentation is built: every command with its options, every
recipe, every error. They cannot differ from what the commands take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import messages
import yaml

from openmae.cli import NO_DRY_RUN, PANELS, WITH_CHANGE, WITH_RECIPE
from openmae.config import TASKS, settings
from openmae.config.base import extra_of, shown
from openmae.config.recipe import shipped

FOLDER = "generated"
CLASSES = {"free": "may change", "allow": "needs `--allow-change`", "fixed": "stays"}
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
RECIPES = Path(__file__).parents[2] / "src" / "openmae" / "recipes"


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / FOLDER))
    app.connect("source-read", _plain_outside)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _plain_outside(app: Any, page: str, source: list[str]) -> None:
    """Links to files of the repository that are no pages become their names."""
    source[0] = OUTSIDE.sub(r"`\2`", source[0])


def write(folder: Path) -> None:
    """Write all pages."""
    folder.mkdir(exist_ok=True)
    pages = {"commands": index(), "recipes": recipes(), "errors": messages.page()}
    pages |= {task.replace(" ", "-"): command(task) for task in TASKS}
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def index() -> str:
    """The list of commands."""
    rows = [
        f"| [`openmae {task}`]({task.replace(' ', '-')}.md) | {cell(line)} |"
        for task, (_, line) in TASKS.items()
    ]
    names = "\n".join(task.replace(" ", "-") for task in TASKS)
    return (
        "# Commands\n\nEvery command is a Python function with the same names: `openmae data check`"
        " is `openmae.data_check`.\nMade from the settings of the commands.\n\n"
        "| command | |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )


def command(task: str) -> str:
    """A page: what it does and a table for each panel of its help."""
    model = settings(task)
    parts = [f"# openmae {task}\n\n{cell(' '.join((model.__doc__ or '').split()))}\n"]
    resumed = task in WITH_CHANGE
    for panel in PANELS:
        own = [n for n in model.model_fields if extra_of(model, n)["panel"] == panel]
        if own:
            heads = (
                "| option | default | | on continuing |" if resumed else "| option | default | |"
            )
            line = "|---|---|---|---|" if resumed else "|---|---|---|"
            rows = [_row(model, name, resumed) for name in own]
            parts.append(f"## {panel}\n\n{heads}\n{line}\n" + "\n".join(rows) + "\n")
    more = [("--json", "one JSON object on standard output")]
    more += [("--debug", "show the traceback of an error")]
    if task not in NO_DRY_RUN:
        more.insert(0, ("--dry-run", "check everything, write nothing"))
    if task in WITH_RECIPE:
        more.insert(
            0, ("--recipe", f"settings to start from: {', '.join(shipped(task))}, or a file")
        )
    if resumed:
        more.insert(1, ("--allow-change", "settings that a continued run may change: lr,data"))
        more.insert(2, ("--yes", "start also what takes days on this machine"))
    rows = [f"| `{name}` | {cell(text)} |" for name, text in more]
    parts.append("## Command\n\n| option | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(model: Any, name: str, resumed: bool) -> str:
    field, extra = model.model_fields[name], extra_of(model, name)
    flag = f"`--{name.replace('_', '-')}`"
    if extra["short"]:
        flag += f", `{extra['short']}`"
    if extra["positional"]:
        flag = f"`{name.upper()}`"
    needed = "needed" if field.is_required() else ""
    value = needed or ("" if field.default in (None, "", ()) else f"`{shown(field.default)}`")
    cells = [flag, value, cell(field.description or "")]
    cells += [CLASSES[extra["change"]]] if resumed else []
    return "| " + " | ".join(cells) + " |"


def recipes() -> str:
    """All recipes with what their heads say."""
    parts = [
        "# Recipes\n\nMade from the files that are shipped. `openmae TASK --recipe NAME`, then any"
        " option on top.\n"
    ]
    for folder in sorted(p for p in RECIPES.iterdir() if p.is_dir()):
        rows = []
        for path in sorted(folder.glob("*.yaml")):
            about: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")).get(
                "about", {}
            )
            told = [cell(str(about.get(name, ""))) for name in ("paper", "cost", "expected")]
            rows.append(f"| `{path.stem}` | " + " | ".join(told) + " |")
        head = "| recipe | from | cost | expected |\n|---|---|---|---|\n"
        parts.append(f"## openmae {folder.name}\n\n{head}" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def cell(text: str) -> str:
    """Text in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
