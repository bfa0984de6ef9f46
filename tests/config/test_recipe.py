"""Recipes: what the YAML reader takes and refuses, and that every shipped one is valid."""

from __future__ import annotations

import pytest
import yaml

from openmae.cli import WITH_RECIPE
from openmae.config import TASKS, resolve, settings
from openmae.config.pretrain import PretrainConfig
from openmae.config.recipe import FOLDER, RECIPES_OF, about, read_recipe, read_yaml, shipped
from openmae.errors import UsageError

ALL = [(folder.name, name) for folder in sorted(FOLDER.iterdir()) for name in shipped(folder.name)]


def written(folder, text: str | bytes):
    path = folder / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# The reader.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        ("-1.5e-3", -1.5e-3),
        (".5", 0.5),
        ("1.0", 1.0),
        ("3", 3),
        ("true", True),
        ("~", None),
        ("[1e-4, 2]", [1e-4, 2]),
        ("1e", "1e"),
        ("e4", "e4"),
        ("'1e-4'", "1e-4"),
    ],
)
def test_values(tmp_path, text, value):
    found = read_yaml(written(tmp_path, f"a: {text}\n"))["a"]
    assert found == value
    assert type(found) is type(value)


REFUSED = {
    "duplicate": ("lr: 1\nseed: 2\nlr: 3\n", "lr is given twice"),
    "nested duplicate": ("about:\n  paper: a\n  paper: b\n", "paper is given twice"),
    "alias": ("a: &x 1\nb: *x\n", "aliases (*name) are not allowed here"),
    "merge": ("a: &x {b: 1}\nc:\n  <<: *x\n", "aliases (*name) are not allowed here"),
    "object": (
        "a: !!python/object/apply:os.system ['true']\n",
        "could not determine a constructor",
    ),
    "date": ("a: 2020-13-45\n", "month must be in 1..12"),
    "tag": ("a: !!int abc\n", "invalid literal for int()"),
    "syntax": ("a: [1, 2\n", "while parsing a flow sequence"),
    "two documents": ("a: 1\n---\nb: 2\n", "but found another document"),
    "bytes": (b"a: \xff\xfe\n", "can't decode byte 0xff"),
    "deep": ("a: " + "[" * 5000, "recursion"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    text, reason = REFUSED[case]
    with pytest.raises(UsageError) as found:
        read_yaml(written(tmp_path, text))
    assert str(found.value).startswith(f"{tmp_path}/r.yaml cannot be read as YAML: ")
    assert reason in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "word\n", "3: a\n"])
def test_not_a_mapping(tmp_path, text):
    with pytest.raises(UsageError, match=r"is not a mapping of settings to values$"):
        read_yaml(written(tmp_path, text))


def test_too_large(tmp_path):
    with pytest.raises(UsageError, match=r"is too large for a recipe$"):
        read_yaml(written(tmp_path, "# " + "x" * 1_000_000))


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="No such file or directory"):
        read_recipe("pretrain", str(tmp_path / "gone.yaml"))


# Recipes.


def test_a_file_is_a_recipe(tmp_path):
    path = written(tmp_path, "task: pretrain\nabout: {cost: little}\nresolved: {a: 1}\nlr: 1e-4\n")
    assert read_recipe("pretrain", str(path)) == {"lr": 1e-4}


def test_another_task(tmp_path):
    path = written(tmp_path, "task: knn\nk: 3\n")
    with pytest.raises(UsageError, match=r"is a configuration of another task than pretrain$"):
        read_recipe("pretrain", str(path))


def test_unknown_setting_names_the_file(tmp_path):
    path = written(tmp_path, "epoch: 3\n")
    with pytest.raises(UsageError) as found:
        resolve(PretrainConfig, {"data": "x"}, read_recipe("pretrain", str(path)), source="r.yaml")
    assert str(found.value) == "r.yaml: epoch is not a setting of pretrain. Did you mean epochs?"


def test_unknown_recipe():
    with pytest.raises(UsageError) as found:
        read_recipe("pretrain", "digit")
    assert str(found.value) == (
        "--recipe digit: no such recipe of pretrain. Did you mean digits? There are:"
        f" {', '.join(shipped('pretrain'))}"
    )
    with pytest.raises(UsageError, match=r"There are: none$"):
        read_recipe("knn", "digits")


GIVEN = {
    "image_size": (64, 96),
    "patch_size": 8,
    "mean": (0.5, 0.25, 0.125),
    "std": (1e-3, 1.0, 2.0),
    "lr": 1e-6,
    "steps": 12,
    "epochs": None,
    "time_limit": "1h30m",
    "val": "0.05",
    "flip": False,
    "track": "tensorboard",
}


@pytest.mark.parametrize("given", [{}, GIVEN])
def test_config_to_yaml_and_back(tmp_path, given):
    config = resolve(PretrainConfig, {"data": "images/ä"} | given)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    again = resolve(PretrainConfig, {}, read_recipe("pretrain", str(written(tmp_path, text))))
    assert again == config


def test_there_are_recipes():
    assert {"digits", "laptop", "one-gpu", "vit-base-paper"} <= shipped("pretrain").keys()
    assert {"digits", "small", "vit-base-paper"} <= shipped("finetune").keys()


@pytest.mark.parametrize(("task", "name"), ALL)
def test_shipped_recipe(task, name):
    """That it holds what the paper prints is in test_paper_recipes.py."""
    needed = {n: "x" for n, f in settings(task).model_fields.items() if f.is_required()}
    values = read_recipe(task, name)
    config = resolve(settings(task), needed, values, source=name)
    assert config.model_fields_set == values.keys() | needed.keys()
    assert len(values) > 5
    told = about(task, name).keys() - {"losses"}  # of its own run, for tasks/curvecheck.py
    assert told == {"paper", "command", "cost", "expected"}


def test_there_is_no_folder_of_recipes_without_a_task():
    assert {path.name for path in FOLDER.iterdir()} <= TASKS.keys()
    assert {task for task, _ in ALL} == set(WITH_RECIPE) - RECIPES_OF.keys()
    assert set(RECIPES_OF.values()) <= {task for task, _ in ALL}
