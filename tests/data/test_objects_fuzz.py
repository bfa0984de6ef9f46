"""Annotation files with bytes, values and keys changed at random: an answer, never a traceback."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from pathlib import Path
from typing import Any

import object_files as files
import pytest

from openmae.data.openobjects import open_objects
from openmae.errors import DataError

pytest.importorskip("faster_coco_eval")

NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 1e308, -1e308, float("nan"), float("inf"), "", "x", "\0", "\udcff",
    "../..", "a" * 5000, [], {}, [[]], [[[]]], [None], {"counts": "`"}, [1e9] * 8, [[-1e14] * 6],
    {"size": [32, 48], "counts": [1] * 1536}, {"size": [32, 48], "counts": "PP"}, 3.5,
)  # fmt: skip


def reads(path: Path) -> str:
    """Open and read everything; the answer."""
    try:
        source = open_objects(str(path))
    except DataError as error:
        return "refused" if len(str(error).splitlines()) <= 4 else f"long: {error}"
    source.findings.lines()
    list(source.listing())
    for i in range(len(source)):
        with contextlib.suppress(DataError):
            source[i]
    return "read"


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in nested lists and dicts."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(value, key) for key, _ in pairs]
    inner = value.values() if isinstance(value, dict) else value
    return found + [p for v in inner if isinstance(v, (dict, list)) for p in places(v)]


def test_values_of_a_coco_file(tmp_path):
    file = files.coco(tmp_path, 3)
    sound = json.loads(file.read_text())
    sound["annotations"][0]["segmentation"] = {"size": [32, 48], "counts": [100, 50, 1386]}
    rng, answers = random.Random(0), []
    for _ in range(300):
        values = copy.deepcopy(sound)
        for _ in range(rng.choice((1, 1, 2, 5))):
            holder, key = rng.choice(places(values))
            if rng.random() < 0.2:
                del holder[key]
            else:
                holder[key] = rng.choice(NASTY)
        file.write_text(json.dumps(values))
        answers.append(reads(file))
    assert {"read", "refused"} == set(answers)


@pytest.mark.parametrize("make", ["coco", "voc", "yolo", "instances"])
def test_bytes_of_any_file(tmp_path, make):
    root = tmp_path / make
    getattr(files, make)(root, 3)
    kinds = {".json", ".xml", ".txt", ".yaml"} if make != "instances" else {".png"}
    every = sorted(p for p in root.rglob("*") if p.suffix in kinds)
    rng, answers = random.Random(1), []
    for _ in range(60):
        path = rng.choice(every)
        sound = path.read_bytes()
        data = bytearray(sound)
        for _ in range(rng.choice((1, 3, 20))):
            at = rng.randrange(len(data))
            action = rng.random()
            if action < 0.6:
                data[at] = rng.randrange(256)
            elif action < 0.8:
                del data[at : at + rng.randrange(1, 40)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            if not data:
                break
        path.write_bytes(bytes(data))
        answers.append(reads(root))
        path.write_bytes(sound)
    assert "read" in answers


@pytest.mark.parametrize(
    "text",
    [
        "names: [a, b", "- 1", "names: 3", "names: {0: a, 2: b}", "names: {}", "x: 1", "\x00",
        "names: [[[[]]]]", "!!python/object:os.system {}",
    ],
)  # fmt: skip
def test_names_of_yolo(tmp_path, text):
    files.yolo(tmp_path, 3)
    (tmp_path / "data.yaml").write_text(text)
    reads(tmp_path)


def test_a_bomb_of_entities_is_refused(tmp_path):
    files.voc(tmp_path, 3)
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
    (tmp_path / "Annotations" / "000.xml").write_text(bomb)
    source = open_objects(str(tmp_path))
    assert source.findings.lines() == ["1 XML files cannot be read: dropped (first: 000.xml)"]
