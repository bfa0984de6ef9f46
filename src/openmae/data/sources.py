"""Where images come from: random access, `len(source)` and `source[i] -> Sample`.

To add a source, write a class with this contract and its line in `open_source`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np

from openmae.data.decode import SUFFIXES, Header, Image8, decode, header
from openmae.errors import DataError, did_you_mean

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")


class Sample(TypedDict):
    """One image, (H, W, C) uint8, with its path below the source, its index, and its class (-1:
    none).
    """

    image: Image8
    path: str
    id: int
    label: int


class Source(Protocol):
    """Random access to samples; `channels` is what images are decoded to."""

    name: str
    classes: list[str]
    labels: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    def path(self, index: int) -> str: ...
    def header(self, index: int) -> Header: ...
    def listing(self) -> Iterator[str]: ...
    def subset(self, indices: Sequence[int]) -> Source: ...


class FolderSource:
    """Images of a folder: flat, nested, or one folder a class (the first folder below the root is
    the class).
    """

    def __init__(self, root: Path, files: list[str], channels: int | None = None) -> None:
        self.root, self.files, self.channels = root, files, channels
        self.name = str(root)

    @cached_property
    def classes(self) -> list[str]:
        """Class folders in order; empty when an image lies outside any."""
        if any("/" not in f for f in self.files):
            return []
        return sorted({f.split("/", 1)[0] for f in self.files})

    @cached_property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        number = {c: i for i, c in enumerate(self.classes)}
        return np.array([number.get(f.split("/", 1)[0], -1) for f in self.files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image = decode(self.root / self.files[index], self.channels)
        return Sample(image=image, path=self.files[index], id=index, label=int(self.labels[index]))

    def path(self, index: int) -> str:
        return self.files[index]

    def header(self, index: int) -> Header:
        return header(self.root / self.files[index])

    def listing(self) -> Iterator[str]:
        """One line a file: path and size. A run's data are these lines."""
        for file in self.files:
            yield f"{file}\t{(self.root / file).stat().st_size}"

    def subset(self, indices: Sequence[int]) -> FolderSource:
        part = FolderSource(self.root, [self.files[i] for i in indices], self.channels)
        part.__dict__["classes"] = self.classes  # a class missing from one part keeps its number
        return part


class ArraySource:
    """Images in memory, (N, H, W, C) uint8."""

    def __init__(
        self,
        name: str,
        images: Image8,
        labels: np.ndarray[Any, Any],
        classes: list[str],
        ids: Sequence[int],
    ) -> None:
        self.name, self.images, self.classes = name, images, classes
        self.labels, self.ids = labels.astype(np.int64), list(ids)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            image=self.images[index], path=self.path(index), id=index, label=int(self.labels[index])
        )

    def path(self, index: int) -> str:
        return f"{self.name}/{self.ids[index]:04d}"

    def header(self, index: int) -> Header:
        return Header(*self.images.shape[1:])

    def listing(self) -> Iterator[str]:
        yield hashlib.blake2b(self.images.tobytes(), digest_size=16).hexdigest() + f"\t{len(self)}"

    def subset(self, indices: Sequence[int]) -> ArraySource:
        rows = list(indices)
        ids = [self.ids[i] for i in rows]
        return ArraySource(self.name, self.images[rows], self.labels[rows], self.classes, ids)


class Cached:
    """A source whose decoded images stay in memory; for data that are small once decoded."""

    def __init__(self, source: Source) -> None:
        self._source, self._kept = source, {}  # type: tuple[Source, dict[int, Sample]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            self._kept[index] = self._source[index]
        return self._kept[index]


def digits() -> ArraySource:
    """scikit-learn's 1,797 real handwritten digits, 8x8 gray, in their published order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return ArraySource(
        "digits", images, found.target, [str(d) for d in range(10)], range(len(images))
    )


def open_source(data: str, channels: int | None = None, split: str = "train") -> Source:
    """The source that a user's words name: "digits" (its training part) or a folder.

    Raises:
        DataError: no such folder, no images in it, or an archive.
    """
    if data == "digits":
        return open_split(data)[0 if split == "train" else 1]
    root = Path(data).expanduser()
    if not root.exists():
        raise DataError(_missing(root))
    if not root.is_dir():
        if root.suffix.lower() in ARCHIVES:
            raise DataError(
                f"{data} is an archive. Unpack it, then give the folder: {root.with_suffix('')}/"
            )
        raise DataError(f"{data} is a file. Give the folder that holds the images: {root.parent}/")
    files, others, folders = _walk(root)
    if not files:
        raise DataError(_empty(data, others, folders))
    return FolderSource(root, files, channels)


def open_split(
    data: str, channels: int | None = None, fraction: float = 0.2
) -> tuple[Source, Source]:
    """Training and test part: train/ and test/ (or val/) below the folder, or else a fixed split by
    hash of the path.

    Raises:
        DataError: fewer than two classes, or different ones in the two parts.
    """
    if data == "digits":
        whole = digits()
        test = [i for i in range(len(whole)) if i % 5 == 0]
        return whole.subset([i for i in range(len(whole)) if i % 5]), whole.subset(test)
    root = Path(data).expanduser()
    parts = [
        next((root / n for n in names if (root / n).is_dir()), None) for names in (TRAIN, TEST)
    ]
    if parts[0] and parts[1]:
        first, second = (open_source(str(p), channels) for p in parts)
        if first.classes != second.classes:
            odd = sorted(set(first.classes) ^ set(second.classes))[:3]
            raise DataError(
                f"{parts[0]} and {parts[1]} hold different class folders: {', '.join(odd)}"
            )
        return first, second
    whole_folder = open_source(data, channels)
    return hash_split(whole_folder, fraction)


def hash_split(source: Source, fraction: float) -> tuple[Source, Source]:
    """Split by hash of the path: the same file is always on the same side, whatever else is in the
    folder.
    """
    in_test = [_share(source.path(i)) < fraction for i in range(len(source))]
    first = source.subset([i for i, t in enumerate(in_test) if not t])
    second = source.subset([i for i, t in enumerate(in_test) if t])
    if not len(first) or not len(second):
        raise DataError(
            f"{source.name} has {len(source)} images: too few to hold out {fraction:g} of them"
        )
    return first, second


def require_classes(source: Source, task: str) -> None:
    """Raise DataError unless the source has at least two class folders."""
    if len(source.classes) < 2:
        found = (
            f"Only one class folder ({source.name}/{source.classes[0]})"
            if source.classes
            else "No class folders"
        )
        raise DataError(
            f"{found} in {source.name}. {task} needs >= 2: one folder for each class, with its"
            " images"
        )


def _share(path: str) -> float:
    return (
        int.from_bytes(
            hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
        )
        / 2**64
    )


def _walk(root: Path) -> tuple[list[str], Counter[str], int]:
    """Image files below the root in sorted order, a count of other suffixes, and of folders.
    Follows links once.
    """
    files: list[str] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    stack = [""]
    while stack:
        relative = stack.pop()
        folder = root / relative
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_dir():
                    stack.append(path)
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    if entry.is_file():
                        files.append(path)
                else:
                    others[os.path.splitext(entry.name)[1].lower() or "(no suffix)"] += 1
    return sorted(files), others, len(seen) - 1


def _missing(root: Path) -> str:
    parent = root.parent
    if not parent.is_dir():
        return f"{root} does not exist, nor does {parent}"
    names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))
    near = did_you_mean(root.name, names) or ([names[0]] if len(names) == 1 else [])
    folders = [f"{n}/" for n in names if (parent / n).is_dir()][:6]
    hint = f" Did you mean {parent / near[0]}?" if near else ""
    return f"{root} does not exist. {parent} has: {' '.join(folders) or 'no folders'}.{hint}"


def _empty(data: str, others: Counter[str], folders: int) -> str:
    found = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(3))
    text = f"{data} has 0 images ({folders} folders; found {found or 'no files'})."
    return (
        f"{text} Convert them to JPEG or PNG"
        if others
        else f"{text} Give the folder that holds the images"
    )
