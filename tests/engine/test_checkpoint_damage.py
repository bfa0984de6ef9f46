"""Every kind of damage is found, the file is named, and the checkpoint before is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from parts import batch, plan, state

from openmae.engine import checkpoint
from openmae.engine.loop import training_step
from openmae.errors import StorageError

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2."""
    folder, made = tmp_path_factory.mktemp("sound"), state()
    for step in range(2):
        training_step(made, batch(step), plan())
        checkpoint.save(folder, made.step, made.method, made.optimizer, made.ema, {"seed": 0})
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def _assert_falls_back(folder: Path, name: str) -> None:
    found, notices = checkpoint.latest(folder)
    assert found is not None
    assert found.step == 1
    assert len(notices) == 1
    assert name in notices[0]
    assert "step_00000002" in notices[0]
    assert "using step_00000001" in notices[0]


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(folder: Path, name: str) -> None:
    """50 places in each binary file, a bit of each in turn; in the small ones every bit."""
    file = folder / "step_00000002" / name
    sound = file.read_bytes()
    text = name.endswith(".json")
    places = range(0, len(sound), 1 if text else len(sound) // 50)
    missed = []
    for count, place in enumerate(places):
        for bit in range(8) if text else (count % 8,):
            data = bytearray(sound)
            data[place] ^= 1 << bit
            file.write_bytes(data)
            if checkpoint.problem(file.parent) is None:
                missed.append((place, bit, bytes(sound[place - 9 : place + 9])))
    assert len(places) >= 25
    assert missed == []
    data = bytearray(sound)
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    _assert_falls_back(folder, name)
    file.write_bytes(sound)
    assert checkpoint.problem(file.parent) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("tenths", range(10))
def test_truncated(folder: Path, name: str, tenths: int) -> None:
    file = folder / "step_00000002" / name
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * tenths // 10])
    _assert_falls_back(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_deleted(folder: Path, name: str) -> None:
    (folder / "step_00000002" / name).unlink()
    _assert_falls_back(folder, f"{name} is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_its_place(folder: Path, name: str) -> None:
    (folder / "step_00000002" / name).unlink()
    (folder / "step_00000002" / name).mkdir()
    _assert_falls_back(folder, name)


def test_something_more(folder: Path) -> None:
    extra = folder / "step_00000002" / "weights-2.safetensors"
    extra.write_bytes(b"x")
    _assert_falls_back(folder, "weights-2.safetensors does not belong there")
    extra.rename(extra.with_name(".nfs0001"))  # what file systems put there themselves
    found, notices = checkpoint.latest(folder)
    assert found is not None
    assert (found.step, notices) == (2, [])


def _swap_inside(folder: Path) -> None:
    one, two = (folder / "step_00000002" / n for n in FILES[:2])
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def _from_the_other(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.copy(folder / "step_00000001" / name, folder / "step_00000002" / name)

    return damage


@pytest.mark.parametrize(
    "swap", [_swap_inside, *(_from_the_other(n) for n in FILES)], ids=["inside", *FILES]
)
def test_swapped_files(folder: Path, swap: Callable[[Path], None]) -> None:
    swap(folder)
    wrong = checkpoint.problem(folder / "step_00000002")
    assert wrong is not None
    found, _ = checkpoint.latest(folder)
    assert found is not None
    assert found.path.name == "step_00000001"


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "{}", "7", '"x"', '{"format": 1, "step": 2}', '{"format": 1, "files": []}',
     '{"format": 1, "step": 2, "files": {}}', '{"format": 1, "step": 2, "files": {"a": 1}}',
     '{"format": 2, "step": 2, "files": {}}', '{"format": 1, "step": null, "files": {}}',
     '{"format": 1, "step": 1e999, "files": {}}', "[" * 3000],
)  # fmt: skip
def test_a_manifest_of_nonsense(folder: Path, text: str) -> None:
    (folder / "step_00000002" / "MANIFEST.json").write_text(text)
    assert checkpoint.problem(folder / "step_00000002") is not None
    found, notices = checkpoint.latest(folder)
    assert found is not None
    assert (found.step, len(notices)) == (1, 1)


def test_a_manifest_that_points_outside(folder: Path) -> None:
    """A name with "..", with the right size and sum, is not followed."""
    path = folder / "step_00000002"
    manifest = json.loads((path / "MANIFEST.json").read_text())
    (path / "weights.safetensors").rename(folder / "weights.safetensors")
    manifest["files"]["../weights.safetensors"] = manifest["files"].pop("weights.safetensors")
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    assert checkpoint.problem(path) is not None
    assert checkpoint.latest(folder)[0].step == 1  # type: ignore[union-attr]


def test_a_step_that_was_changed_is_no_newer_one(folder: Path) -> None:
    """The manifest has no sum of its own: its step must be that of state.json."""
    file = folder / "step_00000001" / "MANIFEST.json"
    text = file.read_text()
    assert '"step": 1' in text
    file.write_text(text.replace('"step": 1', '"step": 9'))
    found, notices = checkpoint.latest(folder)
    assert found is not None
    assert found.step == 2
    assert "step 9" in notices[0]


def test_all_damaged(folder: Path) -> None:
    for path in folder.iterdir():
        (path / "state.json").unlink()
    with pytest.raises(StorageError, match=r"state\.json is missing") as caught:
        checkpoint.latest(folder)
    assert caught.value.exit_code == 4
    assert len(list(folder.iterdir())) == 2


def test_a_file_named_like_a_checkpoint(folder: Path) -> None:
    (folder / "step_00000003").write_text("not a folder")
    found, notices = checkpoint.latest(folder)
    assert found is not None
    assert found.step == 2
    assert "step_00000003" in notices[0]
