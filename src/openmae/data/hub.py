"""Data sets of Hugging Face's `datasets`: from the hub, or a folder written by `save_to_disk`.

    hf://OWNER/NAME[/CONFIG][@REVISION][:SPLIT]

Only such a word uses the network. No code of a data set is run (`datasets` 4 and later cannot), and
images come as bytes to our own decoder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.decode import read_bytes
from openmae.data.names import shown
from openmae.data.source import BytesSource, Source
from openmae.data.splits import IN_NEITHER, IN_TEST, IN_TRAIN, TEST, TRAIN
from openmae.data.table import LABEL, Rows
from openmae.data.values import Decoding
from openmae.errors import DataError, UsageError

PREFIX = "hf://"
_FILES = "hf://datasets/"  # files of the hub as fsspec spells them, for shards
_WORD = re.compile(
    r"hf://([\w.-]+/[\w.-]+)(?:/([\w.-]+))?(?:@([\w./-]+))?(?::([\w.-]+))?", re.ASCII
)
_OLDEST = 4  # version of datasets; earlier ones may run scripts of a data set


class HubSource(BytesSource):
    """Rows of a map-style data set.

    Args:
        data: a `datasets.Dataset` with one column, of images that are not decoded.
        splits: how many rows there are of each split, in order; images are called SPLIT/NUMBER.
        stamp: what says, without reading them, that the data are still the same.
    """

    def __init__(
        self,
        name: str,
        data: Any,
        splits: Mapping[str, int],
        stamp: str,
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__(name, len(data), decoding)
        self.data, self.stamp, self.splits = data, stamp, list(splits)
        self.column: str = data.column_names[0]
        self._ends = np.cumsum(list(splits.values()))

    def row_path(self, row: int) -> str:
        """SPLIT/NUMBER."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        return f"{self.splits[at]}/{row - (int(self._ends[at - 1]) if at else 0):08d}"

    def row_bytes(self, row: int) -> bytes:
        """The file in the cell, or the one whose path is there."""
        try:
            cell = self.data[row][self.column] or {}
        except Exception as error:  # whatever a reader of damaged files raises
            raise DataError(shown(error)) from None
        if cell.get("bytes") is not None:
            found: bytes = cell["bytes"]
            return found
        path = Path(cell.get("path") or "")
        if not path.is_file() or not stat.S_ISREG(path.stat().st_mode):
            raise DataError("no bytes in this row, and no file")
        return read_bytes(path)

    def row_line(self, row: int) -> str:
        """Name, the stamp of the data, and label."""
        line = f"{self.row_path(row)}\t{self.stamp}"
        return line if self.table_labels is None else f"{line}\t{self.table_labels[row].tolist()}"


def open_hub(data: str, decoding: Decoding) -> Source | None:
    """A data set of the hub, or a folder written by `save_to_disk`.

    Raises:
        UsageError: `datasets` is not installed, or the word is of another form.
        DataError: it cannot be read or reached, or has no images.
    """
    if data.startswith(PREFIX) and not data.startswith(_FILES):
        loaded = _from_hub(data)
    elif _is_saved(Path(data).expanduser()):
        loaded = _from_disk(data)
    else:
        return None
    parts = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}
    parts = {name: part.with_format(None) for name, part in parts.items() if len(part)}
    if not parts:
        raise DataError(f"{data} has no rows")
    features = next(iter(parts.values())).features
    if any(part.features != features for part in parts.values()):
        raise DataError(
            f"{data}: its splits have different columns. Name one: {_one(data, next(iter(parts)))}"
        )
    return _source(data, parts, decoding)


def _source(data: str, parts: Mapping[str, Any], decoding: Decoding) -> HubSource:
    datasets = _datasets(data)
    first = next(iter(parts.values()))
    image, label = _image_column(data, first.features), _label_column(first.features)
    for part in parts.values():
        _validate(data, part.data.table.select([n for n in (image, label) if n]))
    as_bytes = datasets.Image(decode=False)
    whole = datasets.concatenate_datasets(
        [part.select_columns([image]).cast_column(image, as_bytes) for part in parts.values()]
    )
    counts = {name: len(part) for name, part in parts.items()}
    stamp = blake2b("\n".join(map(_stamp, parts.values())).encode(), digest_size=8).hexdigest()
    source = HubSource(data, whole, counts, stamp, decoding)
    if label is not None:
        values: list[Any] = []
        for part in parts.values():
            values += part.select_columns([label]).with_format("arrow")[:].column(0).to_pylist()
        names = getattr(first.features[label], "names", None)
        source.classes, source.table_labels = Rows([], values, classes=names).numbered()
    source.table_splits = _splits(data, counts, source.labels)
    return source


def _validate(data: str, table: Any) -> None:
    """Arrow files are mapped as they are: a place in them that is not there would end the process.
    Looks at the places, not at the images.
    """
    try:
        table.validate(full=True)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise DataError(f"{data} cannot be read: {shown(error)}") from None


def _splits(data: str, counts: Mapping[str, int], labels: NDArray[Any]) -> NDArray[np.int8] | None:
    """Which rows are for training and testing. A test part whose labels are kept secret is none,
    where there is another one.
    """
    if len(counts) == 1:
        return None
    train = next((name for name in TRAIN if name in counts), None)
    if train is None:
        raise DataError(
            f"{data} has the splits {', '.join(counts)}. Name one: {_one(data, next(iter(counts)))}"
        )
    at = np.split(labels, np.cumsum(list(counts.values()))[:-1])
    labelled = {name for name, part in zip(counts, at, strict=True) if (part >= 0).any()}
    tests = [name for name in TEST if name in counts]
    test = next((name for name in tests if name in labelled), tests[0] if tests else None)
    code = {train: IN_TRAIN, test: IN_TEST}
    return np.repeat(
        np.array([code.get(name, IN_NEITHER) for name in counts], dtype=np.int8),
        list(counts.values()),
    )


def _one(data: str, split: str) -> str:
    """The words for one split of a data set."""
    return f"{data}:{split}" if data.startswith(PREFIX) else str(Path(data) / split)


def _image_column(data: str, features: Mapping[str, Any]) -> str:
    found = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    if not found:
        kinds = ", ".join(f"{name} ({_kind(kind)})" for name, kind in list(features.items())[:6])
        raise DataError(f"{data} has no column of type Image; it has: {kinds}")
    return next((name for name in ("image", "img") if name in found), found[0])


def _label_column(features: Mapping[str, Any]) -> str | None:
    """The first column of classes, one of the usual name before others; or numbers or text of the
    usual name.
    """
    classes = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    plain = [name for name, kind in features.items() if re.match("u?int|.*string", _kind(kind))]
    usual = [name for name in LABEL if name in classes] + classes
    return next(iter(usual + [name for name in LABEL if name in plain]), None)


def _kind(feature: Any) -> str:
    name = type(feature).__name__
    return str(feature.dtype) if name == "Value" else name


def _stamp(part: Any) -> str:
    """Of what was downloaded, wherever it is kept; else the print that was saved with the data."""
    sums = part.info.download_checksums
    return "\n".join(sorted(map(str, sums.items()))) if sums else str(part._fingerprint)


def _is_saved(folder: Path) -> bool:
    one = ("state.json", "dataset_info.json")
    return (folder / "dataset_dict.json").is_file() or all((folder / n).is_file() for n in one)


def _from_disk(data: str) -> Any:
    datasets = _datasets(data)
    try:
        return datasets.load_from_disk(str(Path(data).expanduser().absolute()))
    except Exception as error:  # damaged JSON or Arrow files raise what they like
        raise DataError(f"{data} cannot be read: {shown(error)}") from None


def _from_hub(data: str) -> Any:
    match = _WORD.fullmatch(data)
    if match is None:
        raise UsageError(f"{data} should be hf://OWNER/NAME, perhaps with :SPLIT behind it")
    name, config, revision, split = match.groups()
    datasets = _datasets(data)
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # of many packages below; each is one line here
        kind, text = type(error).__name__, shown(error)
        if "NotFound" in kind and "Entry" not in kind:
            text = "no such data set, or it needs a login (hf auth login)"
        elif isinstance(error, (ConnectionError, TimeoutError)) or _of_network(error):
            text = (
                "the hub cannot be reached. Elsewhere: load_dataset(...).save_to_disk(FOLDER), then"
                " give that folder"
            )
        elif "scripts are no longer supported" in text:
            text = "it is a script of its own, which is never run. Look for a copy in Parquet"
        raise DataError(f"{data}: {text}") from None


def _of_network(error: Exception) -> bool:
    package = type(error).__module__.split(".")[0]
    return (
        package in ("httpx", "requests", "aiohttp") or "LocalEntryNotFound" in type(error).__name__
    )


def _datasets(word: str) -> Any:
    # counting downloads and telling versions is no part of reading data
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    try:
        import datasets
    except ImportError:
        raise UsageError(f'{word} needs datasets: pip install "openmae[tables]"') from None
    if int(datasets.__version__.split(".")[0]) < _OLDEST:
        raise UsageError(f'{word} needs datasets >= {_OLDEST}: pip install -U "openmae[tables]"')
    datasets.logging.set_verbosity_error()
    return datasets
