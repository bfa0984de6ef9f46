"""Tasks that only read, over several ranks: the results of one process, written once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fleet import run, well
from PIL import Image
from trials import Server

from openmae.engine.distributed import World
from openmae.engine.spread import Part, in_order, own_batches


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_every_batch_is_of_one_rank_and_comes_back_in_order(size: int) -> None:
    """Ranks played one after another: what each would say in a round is known beforehand."""
    total = 7
    parts = [Part(np.full((2, 3), n, np.float32), [n, n], [f"{n}a", f"{n}b"]) for n in range(total)]
    own = [list(own_batches(World(r, size), total)) for r in range(size)]
    assert sorted(n for numbers in own for n in numbers) == list(range(total))
    rounds = -(-total // size)
    said: list[list[Any]] = [[None] * size for _ in range(2 * rounds)]
    for rank in range(size):
        calls = iter(range(2 * rounds))

        def keep(value: Any, rank: int = rank, calls: Any = calls) -> list[Any]:
            said[at := next(calls)][rank] = value
            return said[at] if rank == size - 1 else [value]

        world = SimpleNamespace(rank=rank, size=size, gather=keep, gather_rows=keep)
        found = list(in_order(world, total)(parts[n] for n in own[rank]))  # type: ignore[arg-type]
    full = [part for part in found if part.values is not None]
    assert [part.paths[0] for part in full] == [f"{n}a" for n in range(total)]
    assert [part.labels for part in full] == [[n, n] for n in range(total)]
    assert all((part.values == n).all() for n, part in enumerate(full))


def both(trials: Server, words: list[object], size: int, outs: tuple[Path, Path], flag: str) -> str:
    """The command by one process, and by several ranks; what the first of these printed."""
    plain = [str(w) for w in words]
    alone = trials.run([*plain, flag, str(outs[0])])
    assert alone.code == 0, alone.text
    ended = run(trials, [*plain, flag, str(outs[1])], size)
    assert well(ended)
    assert [one.text for one in ended[1:]] == [""] * (size - 1), "one rank speaks"
    return ended[0].text


def test_vectors_of_files_some_of_which_are_broken(
    trials: Server, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(11):
        noise = np.random.default_rng(n).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{n:02d}.png")
    for n in (4, 5, 9):  # a whole batch of two, and half of another
        (folder / f"{n:02d}.png").write_bytes(b"nothing")
    outs = tmp_path / "one.npz", tmp_path / "three.npz"
    said = both(trials, ["embed", whole, folder, "--batch-size", 2], 3, outs, "-o")
    assert "8 of 11 images" in said
    assert said.count("Left out") == 3
    one, three = (np.load(path) for path in outs)
    assert one["path"].tolist() == three["path"].tolist()
    assert (one["vector"] == three["vector"]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "one.npz", "three.npz"]


def test_a_score_is_that_of_one_process(trials: Server, whole: Path, tmp_path: Path) -> None:
    outs = tmp_path / "one", tmp_path / "two"
    both(trials, ["knn", whole, "digits", "--batch-size", 100], 2, outs, "--out")
    first, second = (json.loads((out / "results.json").read_text()) for out in outs)
    assert first == second
    assert first["n"] == 360


@pytest.fixture(scope="module")
def classifier(trials: Server, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classifier") / "run"
    words = f"finetune {whole} digits --out {out} --steps 2 --batch-size 16 --workers 0"
    ended = trials.run([*words.split(), "--device", "cpu"])
    assert ended.code == 0, ended.text
    return out


def test_a_classifier_is_scored_as_by_one_process(
    trials: Server, classifier: Path, tmp_path: Path
) -> None:
    outs = tmp_path / "one", tmp_path / "two"
    both(trials, ["evaluate", classifier, "digits", "--batch-size", 100], 2, outs, "--out")
    for name in ("results.json", "per_class.csv", "pictures/confusion.png"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    tables = tmp_path / "one.csv", tmp_path / "two.csv"
    both(trials, ["predict", classifier, "digits", "--batch-size", 100], 2, tables, "-o")
    assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.mark.slow
def test_the_papers_probe_is_that_of_one_process(
    trials: Server, whole: Path, tmp_path: Path
) -> None:
    outs = tmp_path / "one", tmp_path / "two"
    words = ["probe", whole, "digits", "--protocol", "paper", "--epochs", 4, "--crops", 2]
    words += ["--warmup-epochs", 1, "--batch-size", 100, "--no-baselines"]
    both(trials, words, 2, outs, "--out")
    first, second = (json.loads((out / "results.json").read_text()) for out in outs)
    assert first == second


def test_a_rank_that_cannot_read_is_the_one_that_says_so(
    trials: Server, whole: Path, tmp_path: Path
) -> None:
    words = ["embed", str(whole), "digits", "-o", str(tmp_path / "x.npz")]
    ended = run(trials, [words, [*words, "--layer", "99"]], 2)  # type: ignore[arg-type]
    assert [one.code for one in ended] == [1, 2]
    assert ended[0].text.splitlines()[1:] == []
    assert "rank 1: --layer 99: this encoder has blocks 1 to 1" in ended[1].text
    assert not (tmp_path / "x.npz").exists()
