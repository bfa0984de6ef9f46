"""Files that want to run code, and files that are broken: refused, in a sentence."""

from __future__ import annotations

import argparse
import builtins
import functools
import importlib
import io
import os
import pathlib
import pickle
import random
import subprocess
import zipfile

import pytest
import torch
import variants

from openmae.cli import main
from openmae.errors import StorageError
from openmae.weights.container import read_raw


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments, state=None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return (self.function, self.arguments, *((self.state,) if self.state else ()))


def hostile(marker: pathlib.Path) -> dict[str, object]:
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    namespace = argparse.Namespace(model=Calls(os.system, touch))
    return {
        "os.system": Calls(os.system, touch),
        "nested": {"model": {"a": [Calls(os.system, touch)]}},
        "popen": Calls(subprocess.Popen, ["touch", str(marker)]),
        "check_output": Calls(subprocess.check_output, ["touch", str(marker)]),
        "eval": Calls(builtins.eval, code),
        "exec": Calls(builtins.exec, code),
        "getattr": Calls(getattr, os, "system"),
        "import": Calls(importlib.import_module, "antigravity"),
        "partial": Calls(functools.partial, os.system, touch),
        "open": Calls(open, str(marker), "w"),
        "touch": Calls(pathlib.Path.touch, pathlib.Path(marker)),
        "namespace": {"model": {}, "args": namespace},
        "hub": Calls(torch.hub.load, "a/b", "c"),
        "load": Calls(torch.load, io.BytesIO),
        "state": Calls(argparse.Namespace, state={"x": Calls(os.system, touch)}),
        "script": Calls(torch.jit.load, str(marker)),
        "remove": Calls(os.unlink, str(marker.parent / "precious")),
    }


NAMES = sorted(hostile(pathlib.Path("x/marker")))


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_run(name, form, tmp_path):
    (tmp_path / "precious").write_text("kept")
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    value = hostile(marker)[name]
    try:
        if form == "bare":
            path.write_bytes(pickle.dumps(value))
        else:
            torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    except (TypeError, pickle.PicklingError, AttributeError):
        path.write_bytes(b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R.")
    with pytest.raises(StorageError) as error:
        read_raw(path)
    assert not marker.exists()
    assert (tmp_path / "precious").exists()
    assert len(str(error.value).splitlines()) <= 3


OPCODES = {
    "GLOBAL": b"cposix\nsystem\n(X\x04\x00\x00\x00true tR.",
    "INST": b"(X\x04\x00\x00\x00true" + b"iposix\nsystem\n.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "EXT": b"\x80\x02\x82\x01.",
    "BUILD": b"cargparse\nNamespace\n)R}X\x01\x00\x00\x00acposix\nsystem\nsb.",
    "PERSID": b"Pwhatever\n.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_hand_made_opcodes(name, tmp_path):
    (tmp_path / "x.pth").write_bytes(OPCODES[name])
    with pytest.raises(StorageError):
        read_raw(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as file:
        file.writestr("archive/data.pkl", OPCODES[name])
        file.writestr("archive/version", "3\n")
    with pytest.raises(StorageError):
        read_raw(tmp_path / "y.pth")


def test_the_refusal_names_the_class_and_the_way_out(tmp_path, capsys):
    torch.save({"model": Calls(os.system, "true")}, tmp_path / "evil.pth")
    assert main(["embed", str(tmp_path / "evil.pth"), "digits", "-o", str(tmp_path / "x.npz")]) == 4
    text = capsys.readouterr().err
    assert "system, which is code and not weights: refused" in text
    assert "Traceback" not in text
    assert not (tmp_path / "x.npz").exists()


def test_harmless_values_are_read(tmp_path):
    import numpy as np

    args = argparse.Namespace(output=pathlib.Path("runs"), lr=np.float64(0.1))
    torch.save({"model": variants.official(variants.model()), "args": args}, tmp_path / "x.pth")
    assert read_raw(tmp_path / "x.pth").extra["args"]["output"] == pathlib.Path("runs")


def test_a_trusted_file_is_read_in_a_child(tmp_path):
    tensors = {"a": torch.ones(2), "b": torch.zeros(1), "c": torch.zeros(3)}
    torch.save({"model": tensors, "args": Calls(os.getcwd)}, tmp_path / "x.pth")
    with pytest.raises(StorageError, match="--trust-source"):
        read_raw(tmp_path / "x.pth")
    found = read_raw(tmp_path / "x.pth", trust_source=True)
    assert found.tensors.keys() == tensors.keys()
    assert torch.equal(found.tensors["a"], tensors["a"])
    assert "child process" in found.container


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_broken_files_are_said_to_be_broken(form, tmp_path):
    from safetensors.torch import save_file

    path, state = (
        tmp_path / "x.pth",
        {"a": torch.randn(40), "b": torch.randn(3), "c": torch.ones(2)},
    )
    if form == "safetensors":
        save_file(state, path := tmp_path / "x.safetensors")
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole, draw = path.read_bytes(), random.Random(0)
    for trial in range(120):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: draw.randrange(len(data))]
        elif trial % 3 == 1:
            for _ in range(draw.randrange(1, 20)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        else:
            data = bytearray(draw.randbytes(draw.randrange(1, 400)))
        path.write_bytes(bytes(data))
        assert is_refused_or_read(path)


def is_refused_or_read(path: pathlib.Path) -> bool:
    """A change may hit a number of a tensor; all else is refused, by name."""
    try:
        found = read_raw(path)
    except StorageError as error:
        return str(path) in str(error)
    return all(isinstance(t, torch.Tensor) for t in found.tensors.values())
