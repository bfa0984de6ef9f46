"""The same images through every source: the same batches to the bit, for any workers, from any
step; and a run on each of them stops and goes on exactly.
"""

from __future__ import annotations

import pytest
import torch
from data_forms import COUNT, FORMS, WITHOUT_LABELS, folder, image, names
from tiny_options import TINY

from openmae.cli import main
from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import hash_split, open_source
from openmae.data.transforms import TrainTransform
from openmae.data.values import Decoding
from openmae.engine import loop
from openmae.engine.runfolder import read_jsonl


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    source = open_source(folder(tmp_path_factory.mktemp("expected")), Decoding(3))
    return [batches_of(source)[step] for step in range(6)]


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """What a user types for each form, written once."""
    made: dict[str, str] = {}

    def form(name: str) -> str:
        if name not in made:
            made[name] = FORMS[name](tmp_path_factory.mktemp("form"))
        return made[name]

    return form


def batches_of(source) -> TrainBatches:
    return TrainBatches(source, TrainTransform((16, 16), seed=5), 5, 4)


@pytest.mark.parametrize("name", FORMS)
def test_batches_are_the_same_bits(name, forms, expected):
    source = open_source(forms(name), Decoding(3))
    assert len(source) == COUNT
    labelled = name not in WITHOUT_LABELS
    for workers in (0, 2):
        found = list(loader(batches_of(source), range(6), workers))
        for want, batch in zip(expected, found, strict=True):
            assert torch.equal(batch["image"], want["image"])
            assert batch["id"] == want["id"]
            if labelled:
                assert torch.equal(batch["label"], want["label"])
    late = next(loader(batches_of(source), range(4, 6), 2))
    assert torch.equal(late["image"], expected[4]["image"])


@pytest.mark.parametrize("name", FORMS)
def test_a_source_keeps_its_contract(name, forms):
    source = open_source(forms(name), Decoding(3))
    paths = [source.path(i) for i in range(COUNT)]
    assert len(set(paths)) == COUNT
    assert len(list(source.listing())) == COUNT == len(set(source.listing()))
    part = source.subset([7, 2])
    assert [part.path(i) for i in range(2)] == [paths[7], paths[2]]
    assert (part[1]["image"] == image(names()[2])).all()
    assert part[1]["id"] == 1
    header = part.header(0)
    assert (header.height, header.width, header.channels, header.dtype) == (24, 28, 3, "uint8")
    assert source.decoded(Decoding(1))[3]["image"].shape == (24, 28, 1)
    assert source.raw(3).shape == (24, 28, 3)
    first, second = hash_split(source, 0.4)
    both = {first.path(i) for i in range(len(first))} | {second.path(i) for i in range(len(second))}
    assert both == set(paths)
    assert list(open_source(forms(name), Decoding(3)).listing()) == list(source.listing())


@pytest.mark.parametrize("name", FORMS)
def test_a_run_stops_and_goes_on_exactly(name, forms, tmp_path, monkeypatch):
    words = [*TINY, "--steps", "4", "--log-every", "1", "--recipe", "laptop", "--crop", "0.5"]

    def pretrain(out) -> int:
        return main(["pretrain", forms(name), "--out", str(out), *words])

    assert pretrain(tmp_path / "whole") == 0
    step = loop.training_step

    def stopping(state, *more):
        found = step(state, *more)
        if state.step == 2:
            (tmp_path / "parts" / "STOP").touch()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", stopping)
        assert pretrain(tmp_path / "parts") == 75
    assert pretrain(tmp_path / "parts") == 0
    rows = [
        [row["loss"] for row in read_jsonl(tmp_path / part / "metrics.jsonl") if "loss" in row]
        for part in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    weights = [
        (tmp_path / part / "checkpoints/step_00000004/weights.safetensors").read_bytes()
        for part in ("whole", "parts")
    ]
    assert weights[0] == weights[1]
