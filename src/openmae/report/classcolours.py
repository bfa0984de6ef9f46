"""Colours of classes in pictures: the same class has the same one in every picture.

K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_TABLE = """
E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 7F00E5 B2E599 7F3366 E5004C 00FFE5
997FFF 991900 4C33B2 99FF7F B20099 CCB266 FF7F99 4C6633 7F4CE5 E5CCFF 999933 99667F
99194C 0000FF FF19CC E5B24C 7FCCB2 E599CC CC6666 B24C00 B2B27F FF7FE5 334C7F CC4CE5
4C4CFF 7FE5B2 B2FF66 3399CC FF3399 33CC00 CC1999 B21933 B23366 9900CC 197F4C 997F33
99E57F 7F1999 CC33B2 9999FF 99007F E5667F 4C4CB2 994C7F CC9966 E5CC4C FF3366 E5B2CC
CCCC66 7FFFB2 B2CC99 B219CC CC99B2 CC7F4C 7F66FF 99E5CC 664C19 CC004C 667FE5 CC66B2
6600CC 66CCFF 66E5E5 7FB2FF 99CC7F 99FFCC 669900 994C19 FFE5B2 B219E5 FF66E5 336699
CC33FF CCE566 CC3366 FF6600 9900FF FF4CCC FF9933 7FCC4C 99B24C 33FF33 996633 CC19CC
4C00E5 FFCC00 7FB299 7F994C FF66CC 4C997F E5B2FF 993366 4CB2B2 997FB2 B21900 00CC99
337F99 E57F33 7F33B2 33B266 0066E5 CC66FF 00664C 66CC66 4CE566 7FFF4C FF667F E50033
CCB2E5 E54CE5 4C7F33 E50000 FFCC99 B27F99 66FFFF B29900 FFB233 993319 339999 E54C4C
993399 7F7F4C B24C66 7FE5FF 7F4C7F E5B27F 7FE54C 33CCCC 3366B2 B200FF 669966 CC99FF
B233B2 7F00CC B2B200 7F3333 99E500 B2CC00 7F7F00 CC4C66 7F7FCC 4C66FF E5E519 FF4C7F
4C33E5 7F00B2 FF664C E54CCC
"""
"""The seven bright colours of Okabe and Ito, then each as far as can be from all before it, for
full colour vision and for the lack of each of the three kinds of cones (Machado et al. 2009). Kept
as numbers, so that no version of a library can move them.
"""

PALETTE = tuple(tuple(bytes.fromhex(word)) for word in _TABLE.split())


def class_colours(count: int, own: Sequence[Sequence[int]] = ()) -> NDArray[np.uint8]:
    """(K, 3): the data's own colours where it has some, else those of the palette, which begins
    again after 160 classes.
    """
    rows = own or [PALETTE[k % len(PALETTE)] for k in range(count)]
    return np.array(rows, dtype=np.uint8).reshape(-1, 3)


def ink(back: Sequence[int]) -> str:
    """Black or white, whichever is read more easily on a colour: at least 4.5 to 1 (WCAG)."""
    part = np.asarray(back, dtype=np.float64) / 255
    light = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return "black" if float(light @ (0.2126, 0.7152, 0.0722)) > 0.179 else "white"
