"""`openmae embed`: one vector for each image, to a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmae.config.base import Options
from openmae.config.evaluate import EmbedConfig
from openmae.data.source import Source
from openmae.data.sources import open_source
from openmae.engine.distributed import joined
from openmae.engine.features import Features
from openmae.engine.log import say
from openmae.engine.runfolder import Results
from openmae.errors import UsageError
from openmae.models.encoder import Encoder
from openmae.tasks.decoding import decoding_of, require_fit
from openmae.tasks.embedmap import write_map
from openmae.tasks.neighbours import duplicates, nearest
from openmae.tasks.reading import Reader, dry, open_reader, pooling
from openmae.tasks.writing import require_folder, write_whole


def run(config: EmbedConfig, options: Options) -> Results:
    """Write path and vector of every image; the result states number, width and pooling."""
    if config.out.endswith(".parquet"):
        _require_pyarrow(config.out)
    for name in (config.out, config.duplicates, config.neighbours, config.map):
        if name is not None:
            require_folder(name)
    with joined(config.device) as world:
        return _embed(config, options, open_reader(config, world))


def _embed(config: EmbedConfig, options: Options, reader: Reader) -> Results:
    encoder, path = reader.loaded.encoder, Path(config.out).expanduser()
    what = pooling(config, encoder)
    source = open_source(config.data, decoding_of(encoder), split="all")
    require_fit(source, encoder)
    if options.dry_run:
        return dry()
    found = reader.features(source)
    if not reader.world.main:
        return Results({})
    write_whole(path, lambda to: WRITERS[path.suffix](found, to, config.pool))
    width = found.vectors.shape[1]
    say(
        "Out",
        f"{len(found.paths):,} of {len(source):,} images -> {path}  ({width} numbers each, {what})",
    )
    values = {"n": len(found.paths), "dim": width, "unreadable": len(found.bad)}
    return Results(values | _beside(found, config, source, encoder, what), path.parent)


def _beside(
    found: Features, config: EmbedConfig, source: Source, encoder: Encoder, what: str
) -> dict[str, int]:
    """The further files that were asked for; returns what was counted."""
    values: dict[str, int] = {}
    if config.duplicates:
        pairs = duplicates(found.vectors, config.duplicate_threshold)
        rows = [(found.paths[i], found.paths[j], f"{s:.6f}") for i, j, s in pairs]
        _table(config.duplicates, ("path_a", "path_b", "similarity"), rows)
        values["duplicate_pairs"] = len(pairs)
        say("", f"{len(pairs):,} pairs above {config.duplicate_threshold:g} -> {config.duplicates}")
    if config.neighbours:
        near, similar = nearest(found.vectors, config.neighbour_count)
        lines = [
            (found.paths[i], str(rank + 1), found.paths[near[i, rank]], f"{similar[i, rank]:.6f}")
            for i in range(len(near))
            for rank in range(near.shape[1])
        ]
        _table(config.neighbours, ("path", "rank", "neighbour", "similarity"), lines)
        say("", f"{near.shape[1]} nearest of each -> {config.neighbours}")
    if config.map:
        target = Path(config.map).expanduser()
        write_whole(target, lambda to: write_map(found, config, source, encoder, what, to))
        say("", f"map -> {config.map}")
    return values


def _table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([head, *rows])

    write_whole(Path(name).expanduser(), write)


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
