"""Standard sets by name, read and (only when asked for) downloaded by torchvision.

    cifar10            as it lies in the cache, or an error that says how to get it
    cifar10:download   downloaded first, if need be

They live in $OPENMAE_DATA_CACHE, or in torchvision/ of the user's cache folder. CIFAR comes as
serialised Python objects, which could run code: torchvision reads them only after it has found
their checksums to be the published ones. No other data are read in such a way.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmae.data.arrays import FileArrays
from openmae.data.cache import cache_folder
from openmae.data.names import shown
from openmae.data.source import Source
from openmae.data.splits import split_codes
from openmae.data.table import Rows, files_source
from openmae.data.values import Decoding
from openmae.errors import DataError

FOLDER = "OPENMAE_DATA_CACHE"
DOWNLOAD = ":download"


def cifar10(sets: Any, root: Path, download: bool) -> Source:
    """60,000 colour images of 32 px, 10 classes; test: its 10,000."""
    parts = [sets.CIFAR10(root, train, download=download) for train in (True, False)]
    return _arrays("cifar10", parts, parts[0].classes)


def cifar100(sets: Any, root: Path, download: bool) -> Source:
    """60,000 colour images of 32 px, its 100 fine classes; test: its 10,000."""
    parts = [sets.CIFAR100(root, train, download=download) for train in (True, False)]
    return _arrays("cifar100", parts, parts[0].classes)


def mnist(sets: Any, root: Path, download: bool) -> Source:
    """70,000 gray digits of 28 px; test: its 10,000."""
    parts = [sets.MNIST(root, train, download=download) for train in (True, False)]
    return _arrays("mnist", parts, [str(digit) for digit in range(10)])


def fashionmnist(sets: Any, root: Path, download: bool) -> Source:
    """70,000 gray pieces of clothing of 28 px, 10 classes; test: its 10,000."""
    parts = [sets.FashionMNIST(root, train, download=download) for train in (True, False)]
    return _arrays("fashionmnist", parts, parts[0].classes)


def svhn(sets: Any, root: Path, download: bool) -> Source:
    """House numbers, 32 px, 10 digits: 73,257 for training, 26,032 for testing (not the extra)."""
    parts = [sets.SVHN(root, split, download=download) for split in ("train", "test")]
    return _arrays("svhn", parts, [str(digit) for digit in range(10)], axis=1)


def stl10(sets: Any, root: Path, download: bool) -> Source:
    """Colour images of 96 px, 10 classes: 5,000 for training, 8,000 for testing."""
    parts = [sets.STL10(root, split, download=download) for split in ("train", "test")]
    return _arrays("stl10", parts, parts[0].classes, axis=1)


def stl10_unlabeled(sets: Any, root: Path, download: bool) -> Source:
    """Its 100,000 images without labels, for pretraining; 2.8 GB in memory."""
    part = sets.STL10(root, "unlabeled", download=download)
    return _arrays("stl10-unlabeled", [part], [], axis=1)


def flowers102(sets: Any, root: Path, download: bool) -> Source:
    """102 flowers: 2,040 for training (its train and val, as papers on transfer do), 6,149 for
    testing.
    """
    parts = [sets.Flowers102(root, split, download=download) for split in ("train", "val", "test")]
    words = ["train", "train", "test"]
    return _files("flowers102", root, [(p._image_files, p._labels) for p in parts], words, parts[0])


def food101(sets: Any, root: Path, download: bool) -> Source:
    """101 dishes: 75,750 for training, 25,250 for testing."""
    parts = [sets.Food101(root, split, download=download) for split in ("train", "test")]
    words = ["train", "test"]
    return _files("food101", root, [(p._image_files, p._labels) for p in parts], words, parts[0])


def pets(sets: Any, root: Path, download: bool) -> Source:
    """37 breeds (Oxford-IIIT): 3,680 for training (its trainval), 3,669 for testing."""
    parts = [sets.OxfordIIITPet(root, split, download=download) for split in ("trainval", "test")]
    words = ["train", "test"]
    return _files("pets", root, [(p._images, p._labels) for p in parts], words, parts[0])


def eurosat(sets: Any, root: Path, download: bool) -> Source:
    """27,000 satellite images in colour, 64 px, 10 classes; it has no test part of its own."""
    whole = sets.EuroSAT(root, download=download)
    files, labels = zip(*whole.samples, strict=True)
    return _files("eurosat", root, [(files, labels)], [""], whole)


NAMES: dict[str, Callable[[Any, Path, bool], Source]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "mnist": mnist,
    "fashionmnist": fashionmnist,
    "svhn": svhn,
    "stl10": stl10,
    "stl10-unlabeled": stl10_unlabeled,
    "flowers102": flowers102,
    "food101": food101,
    "pets": pets,
    "eurosat": eurosat,
}
"""What each name loads, from torchvision.datasets and a folder; downloading it first if told to."""


def open_named(data: str, decoding: Decoding) -> Source | None:
    """One of `NAMES`, unless there is a file or folder of that name.

    Raises:
        DataError: it is not there, is damaged, or cannot be downloaded.
    """
    name, colon, option = data.partition(":")
    if name not in NAMES or os.path.lexists(data):
        return None
    if colon + option not in ("", DOWNLOAD):
        raise DataError(f"{data}: only {DOWNLOAD} may stand behind the name of a standard set")
    root = _folder(name)
    with contextlib.redirect_stdout(sys.stderr):  # its progress is no result
        source = _load(name, root, download=bool(option))
    return source.decoded(decoding)


def _load(name: str, root: Path, download: bool) -> Source:
    from torchvision import datasets

    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
        return NAMES[name](datasets, root, download)
    except DataError:
        raise
    except Exception as error:  # torchvision has no type of its own for what is missing or damaged
        reason = shown(error)
        if download:
            raise DataError(f"{name} cannot be downloaded to {root}: {reason}") from None
        text = f"{name} is not in {root}, or damaged"
        if "download=True" not in reason:
            text = f"{name} in {root} cannot be read: {reason}"
        raise DataError(f"{text}. Get it: openmae pretrain {name}{DOWNLOAD} --dry-run") from None


def _folder(name: str) -> Path:
    if own := os.environ.get(FOLDER):
        return Path(own).expanduser().absolute()
    cache = cache_folder()
    if cache is None:
        raise DataError(f"{name}: no folder for it. Set {FOLDER} to one that can be written to")
    return cache / "torchvision"


def _arrays(name: str, parts: Sequence[Any], classes: Sequence[str], axis: int = 3) -> FileArrays:
    """Of sets whose images are an array `data`, with channels in one axis (or none)."""
    images, labels = {}, []
    words = ["train", "test"][: len(parts)]
    for word, part in zip(words, parts, strict=True):
        array = np.asarray(part.data)
        array = array[..., None] if array.ndim == 3 else np.moveaxis(array, axis, 3)
        images[word] = np.ascontiguousarray(array)
        labels.append(np.asarray(part.targets if hasattr(part, "targets") else part.labels))
    source = FileArrays(name, images, f"torchvision {name}")
    if classes:
        source.classes = [str(label) for label in classes]
        source.table_labels = np.concatenate(labels).astype(np.int64)
    each = [word for word, part in images.items() for _ in range(len(part))]
    source.table_splits = split_codes(each, name)
    return source


def _files(
    name: str,
    root: Path,
    parts: Sequence[tuple[Sequence[Any], Sequence[int]]],
    words: Sequence[str],
    named: Any,
) -> Source:
    """Of sets that are files, each part with the word of its split."""
    paths = [str(path) for files, _ in parts for path in files]
    labels = [int(label) for _, part in parts for label in part]
    splits = [word for word, (files, _) in zip(words, parts, strict=True) for _ in files]
    return files_source(name, root, Rows(paths, labels, splits, list(named.classes)), None)
