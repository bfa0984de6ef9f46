"""What is predicted for a hidden patch, and its loss. A plain dict of names; to add one, write a
class and its line.
"""

from __future__ import annotations

from openmae.targets.pixels import NormPixels, Pixels

TARGETS: dict[str, type[Pixels]] = {"pixels": Pixels, "norm_pixels": NormPixels}
