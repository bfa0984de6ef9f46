"""`openmae embed`: one vector for each image, to a table."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from openmae.config.base import Options
from openmae.config.evaluate import EmbedConfig
from openmae.data.check import check_channels
from openmae.data.sources import open_source
from openmae.engine.features import Features
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.errors import StorageError, UsageError
from openmae.tasks.reading import dry, open_reader


def run(config: EmbedConfig, options: Options) -> Results:
    """Write path and vector of every image; the result states number, width and pooling."""
    if config.out.endswith(".parquet"):
        _require_pyarrow(config.out)
    path = Path(config.out).expanduser()
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} does not exist. Make it first, or give another -o")
    reader = open_reader(config)
    source = open_source(config.data, reader.loaded.encoder.in_chans)
    check_channels(source, reader.loaded.encoder.in_chans)
    if options.dry_run:
        return dry()
    found = reader.features(source)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        WRITERS[path.suffix](found, temporary, config.pool)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None
    width = found.vectors.shape[1]
    pooled = "mean of patch tokens" if config.pool == "mean" else "class token"
    say(
        "Out",
        f"{len(found.paths):,} of {len(source):,} images -> {path}  ({width} numbers each,"
        f" {pooled}, final norm)",
    )
    return Results({"n": len(found.paths), "dim": width, "unreadable": len(found.bad)}, path.parent)


def _require_pyarrow(out: str) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UsageError(
            f'-o {out}: Parquet needs pyarrow: pip install "openmae[tables]". Or write .npz'
        ) from None


def _npz(found: Features, path: Path, pool: str) -> None:
    with path.open("wb") as file:
        np.savez(file, path=np.array(found.paths), vector=found.vectors, pool=np.array(pool))


def _csv(found: Features, path: Path, pool: str) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *(f"{pool}_{i}" for i in range(found.vectors.shape[1]))])
        for name, vector in zip(found.paths, found.vectors, strict=True):
            writer.writerow([name, *(f"{v:.9g}" for v in vector.tolist())])


def _parquet(found: Features, path: Path, pool: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = found.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(found.vectors.reshape(-1)), width)
    names = [
        p.encode("utf-8", "backslashreplace").decode() for p in found.paths
    ]  # Parquet is UTF-8
    table = pa.table({"path": pa.array(names), "vector": vectors})
    pq.write_table(table.replace_schema_metadata({"pool": pool}), path)


WRITERS = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}
"""Suffix -> writer."""
