"""`openmae pack`: one command in, a data set out that every command reads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data.pack_files import command, content, make_photos, make_set
from tiny_options import TINY

import openmae
from openmae.cli import main
from openmae.data.packed import PackedSource
from openmae.data.packindex import BAD, INDEX
from openmae.data.shardwriter import ShardWriter
from openmae.data.sources import open_source, open_split


@pytest.fixture
def say(capsys):
    return partial(command, capsys)


@pytest.fixture
def photos(tmp_path) -> Path:
    return make_photos(tmp_path / "photos")


def test_photos_become_small_jpeg(say, photos, tmp_path):
    before = content(photos)
    said = say("pack", photos, tmp_path / "out", "--short-side", 32)
    assert said.code == 0
    assert "jpeg (8-bit, shorter side 60 px (median) above 32): jpeg quality 90" in said.out
    assert "6 images" in said.out
    assert "read back and verified" in said.out
    source = PackedSource(tmp_path / "out")
    assert [source.raw(i).shape for i in range(6)] == [(32, 48, 3)] * 6
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert content(photos) == before
    assert sorted(content(tmp_path / "out")) == [INDEX, "index.safetensors", "shard-00000.bin"]


def test_the_same_again_says_so(say, photos, tmp_path):
    words = ("pack", photos, tmp_path / "out", "--json")
    first = say(*words)
    again = say(*words)
    assert json.loads(first.out) == json.loads(again.out)
    assert json.loads(again.out)["n"] == 6
    assert "is complete: 6 images. Nothing to do" in again.err


def test_workers_make_the_same_bytes(say, tmp_path):
    root = make_set("rgb", tmp_path / "in", 30)
    for workers in (0, 2):
        words = ("--mode", "jpeg", "--short-side", 16, "--shard-size", "4KB", "--workers", workers)
        assert say("pack", root, tmp_path / str(workers), *words).code == 0
    assert content(tmp_path / "0") == content(tmp_path / "2")
    assert len(content(tmp_path / "0")) > 4


def test_training_reads_it_as_it_reads_the_folder(say, photos, tmp_path):
    """The same losses, to the bit, from the files and from their pack."""
    losses = []
    assert say("pack", photos, tmp_path / "packed", "--mode", "lossless").code == 0
    for name in ("photos", "packed"):
        words = (tmp_path / name, "--out", tmp_path / f"run-{name}", *TINY, "--steps", 3)
        assert say("pretrain", *words).code == 0
        lines = (tmp_path / f"run-{name}/metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
    assert losses[0] == losses[1]
    assert losses[0][-1] is not None
    run = tmp_path / "run-packed"
    assert say("knn", run, tmp_path / "packed", "--test-fraction", 0.5).code == 0
    assert say("embed", run, tmp_path / "packed", "-o", tmp_path / "x.npz").code == 0


def test_train_and_test_are_packed_apart(say, photos, tmp_path):
    for part in ("train", "val"):
        shutil.copytree(photos, tmp_path / "in" / part)
    (tmp_path / "in/val/a/0.jpg").unlink()
    assert say("pack", tmp_path / "in", tmp_path / "out").code == 0
    train, test = open_split(str(tmp_path / "out"))
    assert (len(train), len(test)) == (6, 5)
    assert train.path(0) == "a/0.jpg"
    assert train.classes == ["a", "b"]
    assert say("pack", "--verify", tmp_path / "out").out.count("Verified") == 2
    said = say("pretrain", tmp_path / "out", *TINY, "--steps", 1)
    assert said.code == 3
    assert f"Give one of them, such as {tmp_path / 'out/train'}" in said.err


def test_digits_keep_their_split(say, tmp_path):
    assert say("pack", "digits", tmp_path / "out").code == 0
    for ours, theirs in zip(open_split(str(tmp_path / "out")), open_split("digits"), strict=True):
        assert [ours.path(i) for i in range(9)] == [theirs.path(i) for i in range(9)]
        assert np.array_equal(ours.labels, theirs.labels)
        assert np.array_equal(ours.raw(5), theirs.raw(5))


def test_a_pack_can_be_packed(say, photos, tmp_path):
    assert say("pack", photos, tmp_path / "a", "--mode", "lossless").code == 0
    assert say("pack", tmp_path / "a", tmp_path / "b", "--mode", "raw").code == 0
    first, second = (open_source(str(tmp_path / name)) for name in "ab")
    assert [first.path(i) for i in range(6)] == [second.path(i) for i in range(6)]
    assert np.array_equal(first.raw(3), second.raw(3))
    assert np.array_equal(first.labels, second.labels)


def test_dry_run_writes_nothing(say, photos, tmp_path):
    said = say("pack", photos, tmp_path / "out", "--dry-run")
    assert said.code == 0
    assert "nothing was written" in said.out
    assert not (tmp_path / "out").exists()


def test_unreadable_images_are_listed(say, tmp_path):
    root = make_set("rgb", tmp_path / "in", 22)
    (root / "cat/5.png").write_bytes(b"no image")
    said = say("pack", root, tmp_path / "out")
    assert said.code == 0
    assert f"1 of 22 images cannot be read: {tmp_path / 'out' / BAD} lists them" in said.err
    row = json.loads((tmp_path / "out" / BAD).read_text())
    assert row["path"] == "cat/5.png"
    (tmp_path / "out" / BAD).write_text("{}\n")
    assert say("pack", "--verify", tmp_path / "out").code == 4


def test_verify_names_what_is_damaged(say, photos, tmp_path):
    say("pack", photos, tmp_path / "out")
    assert "every byte as it was written" in say("pack", tmp_path / "out", "--verify").out
    shard = tmp_path / "out/shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 64
    shard.write_bytes(data)
    said = say("pack", "--verify", tmp_path / "out")
    assert said.code == 4
    assert "a/0.jpg in shard-00000.bin" in said.err
    assert "pack again" in said.err


# Stopped.


def test_ctrl_c_then_the_same_again(tmp_path):
    root = make_set("rgb", tmp_path / "in", 30)
    slow = (
        "import os, sys, time\nfrom openmae.cli import main\nfrom openmae.data import shardwriter\n"
        "before = shardwriter.ShardWriter.add\n"
        "def add(*words):\n    time.sleep(0.05); before(*words)\n"
        "shardwriter.ShardWriter.add = add\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["pack", str(root), str(tmp_path / "out"), "--shard-size", "8KB"]
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for _ in range(600):
        if (tmp_path / "out/part-00001.bin").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 75, out
    assert "the same command again continues it" in out
    assert not (tmp_path / "out" / INDEX).exists()
    assert not list((tmp_path / "out").glob(".tmp*"))
    assert main(words) == 0
    words[2] = str(tmp_path / "unbroken")
    assert main(words) == 0
    assert content(tmp_path / "out") == content(tmp_path / "unbroken")


def test_a_full_disk_is_said_and_can_be_continued(say, photos, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ShardWriter, "add", full)
    said = say("pack", photos, tmp_path / "out")
    assert said.code == 4
    assert "No space left on device" in said.err
    monkeypatch.undo()
    assert say("pack", photos, tmp_path / "out").code == 0


def test_from_python(photos, tmp_path):
    results = openmae.pack(photos, tmp_path / "out", mode="raw")
    assert results["mode"] == "raw"
    assert results["n"] == 6
    assert results.folder == tmp_path / "out"
