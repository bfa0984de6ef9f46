"""The command line: one sub-command a task. cyclopts splits the words, pydantic reads the values.

Help and usage errors import neither torch nor timm.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from openmae import __version__
from openmae.answers import guarded
from openmae.config import TASKS, Options, command_of, module_of, no_command, resolve, settings
from openmae.config.base import Settings, extra_of, shown
from openmae.config.recipe import read_recipe, shipped
from openmae.errors import UsageError, did_you_mean
from openmae.launch import launch, ranks_to_start
from openmae.rank import begin, exit_status, parted
from openmae.words import message, names, plain_paths, spell

PANELS = ("Model", "Training", "Data", "Evaluation", "Run", "Command")
GROUPS = {name: Group(name, sort_key=i) for i, name in enumerate(PANELS)}
WITH_CHANGE = ("pretrain", "tokenize", "finetune", "detect", "segment")
WITH_RECIPE = (*WITH_CHANGE, "probe", "benchmark", "ablate")
NO_DRY_RUN = ("quickstart", "models", "inspect", "data check")


def _parameter(
    name: str,
    kind: Any,
    help: str,
    panel: str,
    positional: bool = False,
    names: list[str] | None = None,
    **more: Any,
) -> inspect.Parameter:
    mark = Parameter(name=names, help=help, group=GROUPS[panel], show_default=False, **more)
    place = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
    )
    return inspect.Parameter(name, place, default=None, annotation=Annotated[kind | None, mark])


def _field_parameter(name: str, field: Any) -> inspect.Parameter:
    extra, annotation = field.json_schema_extra, str(field.annotation)
    default = (
        ""
        if field.is_required() or field.default in (None, "", ())
        else f" [{shown(field.default)}]"
    )
    flag = "--" + name.replace("_", "-")
    names = [flag, extra["short"]] if extra["short"] else [flag]
    kind: Any = str
    more: dict[str, Any] = {}
    if "bool" in annotation:
        kind = bool
    elif "tuple" in annotation:
        kind = list[str]
        if not extra["positional"]:
            more["consume_multiple"] = True
        more["negative_iterable"] = ()
    return _parameter(
        name, kind, field.description + default, extra["panel"], extra["positional"], names, **more
    )


def _signature(task: str) -> inspect.Signature:
    parameters = [_field_parameter(n, f) for n, f in settings(task).model_fields.items()]
    if task in WITH_RECIPE:
        words = (
            f"settings to start from: {', '.join(shipped(task))}, or a .yaml file (a run's"
            " config.yaml too)"
        )
        parameters.append(_parameter("recipe", str, words, "Command"))
    if task in WITH_CHANGE:
        words = "settings that a continued run may change, such as lr,data"
        parameters.append(_parameter("allow_change", str, words, "Command"))
        words = "start also what takes days on this machine, without asking"
        parameters.append(_parameter("yes", bool, words, "Command", negative=()))
    if task not in NO_DRY_RUN:
        parameters.append(
            _parameter("dry_run", bool, "check everything, write nothing", "Command", negative=())
        )
    parameters.append(
        _parameter("json", bool, "one JSON object on standard output", "Command", negative=())
    )
    parameters.append(
        _parameter("debug", bool, "show the traceback of an error", "Command", negative=())
    )
    order = sorted(parameters, key=lambda p: p.kind)
    return inspect.Signature(order)


def _run_task(task: str) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> None: ...

    body.__signature__ = _signature(task)  # type: ignore[attr-defined]
    body.__doc__ = settings(task).__doc__
    body.__name__ = "body"
    return body


def _build(task: str | None) -> App:
    """The command line; the one task asked for has its signature, the others a line of help."""
    about = "Masked-autoencoder pretraining on your own images."
    app = App(name="openmae", version=__version__, help=about)
    families = {"": app}
    for name, (_, line) in TASKS.items():
        body = _run_task(name) if name == task else _named(line)
        family, _, word = name.rpartition(" ")
        if any(other.startswith(f"{name} ") for other in TASKS):  # a command, and the first word of
            families[name] = App(name=name, help=line)  # others
            families[name].default(body)
            app.command(families[name])
            continue
        if family not in families:  # of commands of two words
            families[family] = App(name=family, help=f"{name}: {line}")
            app.command(families[family])
        families[family].command(body, name=word)
    return app


def _named(line: str) -> Callable[[], None]:
    def body() -> None: ...

    body.__doc__ = line
    return body


def _split(given: dict[str, Any]) -> tuple[dict[str, Any], Options, bool, bool]:
    """Settings, options of the command, --json and --debug."""
    as_json, debug = bool(given.pop("json", False)), bool(given.pop("debug", False))
    recipe, dry_run, allow = (given.pop(n, None) for n in ("recipe", "dry_run", "allow_change"))
    ask = not (given.pop("yes", False) or as_json)
    options = Options(recipe, bool(dry_run), names(allow), ask)
    return given, options, as_json, debug


def resolved(
    task: str, given: dict[str, Any], options: Options, spelling: Callable[[str], str]
) -> Settings:
    """The settings of a task on top of its recipe; runs nothing."""
    base = read_recipe(task, options.recipe) if options.recipe else None
    model = settings(task)
    for name in options.allow_change:
        if name not in model.model_fields:
            near = did_you_mean(name, model.model_fields)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"--allow-change {name}: no such setting.{hint}")
    return resolve(model, given, base, spelling, source=options.recipe or "")


def execute(
    task: str,
    given: dict[str, Any],
    options: Options,
    spelling: Callable[[str], str],
    command: list[str],
) -> Any:
    """Resolve the settings of a task and run it; `command` is what each of several ranks runs."""
    config = resolved(task, given, options, spelling)
    count = ranks_to_start(config, spelling)
    if count > 1:
        return launch([sys.executable, *command], count, getattr(config, "restarts", 0))
    parted()
    told = replace(options, spell=spelling, check=check, typed=frozenset(given))
    return importlib.import_module(f"openmae.tasks.{module_of(task)}").run(config, told)


def check(words: list[str]) -> tuple[str, Settings]:
    """The task and the settings of a whole command, as it would run; runs nothing.

    Raises:
        UsageError: the command would refuse these words.
    """
    task = command_of(words)
    try:
        function, bound, _ = _build(task).parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(message(error, words)) from None
    if task is None or function.__name__ != "body":
        raise UsageError(no_command(words))
    model = settings(task)
    given, options, _, _ = _split({k: v for k, v in bound.arguments.items() if v is not None})
    return task, resolved(task, given, options, lambda name: spell(name, model))


def python_call(task: str) -> Callable[..., Any]:
    """The function `openmae.<task>`, with the settings of the command as keyword arguments."""
    model = settings(task)

    def call(*positional: Any, **given: Any) -> Any:
        places = [n for n in model.model_fields if extra_of(model, n)["positional"]]
        if len(positional) > len(places):
            raise UsageError(
                f"{task} takes {len(places)} positional arguments ({', '.join(places)})"
            )
        twice = given.keys() & set(places[: len(positional)])
        if twice:
            raise UsageError(f"{task}: {twice.pop()} is given twice")
        given |= dict(zip(places, positional, strict=False))
        options = Options(
            given.pop("recipe", None),
            given.pop("dry_run", False),
            names(given.pop("allow_change", ())),
        )
        given = {k: plain_paths(v) for k, v in given.items()}
        return _execute_call(task, given, options)

    call.__name__ = call.__qualname__ = task.replace(" ", "_")
    call.__doc__ = model.__doc__
    call.__signature__ = _python_signature(task)  # type: ignore[attr-defined]
    return call


def _execute_call(task: str, given: dict[str, Any], options: Options) -> Any:
    try:
        told = json.dumps([given, options.recipe, options.dry_run, options.allow_change])
    except TypeError:
        told = ""
        if (given.get("gpus") or 1) > 1:
            raise UsageError("gpus = needs settings that can be written as JSON") from None
    command = ["-c", "from openmae.cli import rank_of_call; rank_of_call()", task, told]
    return execute(task, given, options, lambda name: f"{name} =", command)


def rank_of_call() -> None:
    """A rank of `openmae.<task>(gpus=N)`: the arguments are the task and its call, as JSON."""
    task, told = sys.argv[1:]
    given, recipe, dry_run, allow = json.loads(told)
    begin([task])
    sys.exit(
        guarded(lambda: _execute_call(task, given, Options(recipe, dry_run, tuple(allow))), [])
    )


def _python_signature(task: str) -> inspect.Signature:
    model, positional, named = settings(task), [], []
    for name, parameter in inspect.signature(model).parameters.items():
        if extra_of(model, name)["positional"]:
            positional.append(parameter.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD))
        else:
            named.append(parameter)
    options: dict[str, Any] = {"recipe": None} if task in WITH_RECIPE else {}
    options |= {"allow_change": ()} if task in WITH_CHANGE else {}
    options |= {"dry_run": False} if task not in NO_DRY_RUN else {}
    for name, default in options.items():
        named.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    return inspect.Signature([*positional, *named])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the return value is the exit code."""
    words = sys.argv[1:] if argv is None else argv
    task = command_of(words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold what is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    return guarded(lambda: _command(task, words), words)


def _command(task: str | None, words: list[str]) -> Any:
    """Run the words of a command; None where they only ask for help."""
    function, bound, _ = _build(task).parse_args(words, exit_on_error=False, print_error=False)
    if task is None or function.__name__ != "body":  # --help, --version
        function(*bound.args, **bound.kwargs)
        return None
    given, options, as_json, _ = _split({k: v for k, v in bound.arguments.items() if v is not None})
    model = settings(task)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        command = ["-m", "openmae", *words]
        results = execute(task, given, options, lambda name: spell(name, model), command)
    if as_json and not getattr(results, "shown", False):
        print(json.dumps(results, default=str))
    return results


def entry() -> None:
    """The console script."""
    # Threads that wait without spinning: as fast on an idle machine (four short runs), and they
    # leave the core to another process that wants it. It counts only before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    begin(sys.argv[1:])
    sys.exit(exit_status(main()))
