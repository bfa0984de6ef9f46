"""`openmae embed`: the same vectors in every format, in a stable order."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import openmae
from openmae.data.decode import decode
from openmae.data.transforms import EvalTransform
from openmae.data.values import Decoding


def read(path: Path) -> tuple[list[str], np.ndarray, str]:
    """Paths, vectors and pooling of a table, whatever its format."""
    if path.suffix == ".npz":
        with np.load(path) as found:
            return found["path"].tolist(), found["vector"], str(found["pool"])
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            head, *rows = list(csv.reader(file))
        pools = {name.rsplit("_", 1)[0] for name in head[1:]}
        vectors = np.array([[float(v) for v in row[1:]] for row in rows], np.float32)
        return [row[0] for row in rows], vectors, pools.pop()
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    return table["path"].to_pylist(), vectors, table.schema.metadata[b"pool"].decode()


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_every_format_holds_the_same(pool, run, trained, classes, tmp_path):
    tables = []
    for suffix in ("npz", "csv", "parquet"):
        path = tmp_path / f"x.{suffix}"
        said = run("embed", trained, classes, "-o", path, "--pool", pool)
        assert ("mean of patch tokens" if pool == "mean" else "class token") in said
        assert f"30 of 30 images -> {path}" in said
        tables.append(read(path))
    paths, vectors, stated = tables[0]
    assert stated == pool
    assert paths == sorted(str(p.relative_to(classes)) for p in classes.rglob("*.png"))
    for others in tables[1:]:
        assert others[0] == paths
        np.testing.assert_array_equal(others[1], vectors)  # to the bit, csv too
        assert others[2] == pool


def test_a_vector_is_that_of_the_encoder(run, trained, classes, tmp_path):
    run("embed", trained, classes, "-o", tmp_path / "x.npz")
    paths, vectors, _ = read(tmp_path / "x.npz")
    encoder = openmae.load(trained).encoder
    image = EvalTransform((32, 32))(decode(classes / paths[4], Decoding(3)))
    with torch.inference_mode():
        tokens = encoder(image[None])
    np.testing.assert_allclose(vectors[4], tokens[0, 1:].mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_any_number_of_workers_and_the_encoder_file_give_the_same(run, trained, classes, tmp_path):
    files = [tmp_path / f"{i}.npz" for i in range(3)]
    run("embed", trained, classes, "-o", files[0], "--batch-size", 7)
    run("embed", trained, classes, "-o", files[1], "--batch-size", 7, "--workers", 2)
    run("embed", trained / "encoder.safetensors", classes, "-o", files[2], "--batch-size", 7)
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


def test_a_failure_leaves_no_file(trained, classes, tmp_path):
    from openmae.cli import main

    assert main(["embed", str(trained), "nowhere", "-o", str(tmp_path / "x.npz")]) == 3
    assert main(["embed", str(trained), str(classes), "-o", str(tmp_path / "no/x.npz")]) == 4
    assert list(tmp_path.iterdir()) == []
