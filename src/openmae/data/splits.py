"""Which rows of a table are for training and which for testing, as the table itself says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.names import shown
from openmae.errors import DataError

TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")
IN_TRAIN, IN_TEST, IN_NEITHER = 0, 1, -1


def split_codes(words: Sequence[str], where: str) -> NDArray[np.int8] | None:
    """Words of a column `split` -> IN_TRAIN, IN_TEST or IN_NEITHER for each row; None where the
    column says nothing: it is empty, or names one part only.

    Of several words for the test part the first of `TEST` counts, as with folders: beside `test`,
    rows of `val` belong to neither.

    Raises:
        DataError: a word of another kind.
    """
    if not any(words):
        return None
    known = sorted(set(words))
    odd = [word for word in known if word not in (*TRAIN, *TEST)]
    if odd:
        raise DataError(f"{where}: split {shown(odd[0], 40)!r} should be train or test")
    return codes_of(words)


def codes_of(words: Sequence[str]) -> NDArray[np.int8] | None:
    """As `split_codes`, where other words are rows of neither part."""
    known = set(words)
    test = next((word for word in TEST if word in known), None)
    if test is None or not known & set(TRAIN):
        return None
    code = dict.fromkeys(TRAIN, IN_TRAIN) | {test: IN_TEST}
    return np.array([code.get(word, IN_NEITHER) for word in words], dtype=np.int8)


def numbered(labels: Sequence[Any]) -> tuple[list[str], NDArray[np.int64] | None]:
    """Labels as they stand in a table -> names of the classes and the number of each row's, -1
    where it has none (empty or null); None when no row has one.

    Text is sorted as text, as class folders are; whole numbers by size.
    """
    found = {label for label in labels if label is not None and label != ""}
    if not found:
        return [], None
    order = sorted(found) if all(type(label) is int for label in found) else sorted(found, key=str)
    number = {label: i for i, label in enumerate(order)}
    return [str(label) for label in order], np.array(
        [number.get(label, -1) for label in labels], dtype=np.int64
    )
