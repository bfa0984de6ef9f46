"""What is predicted for a hidden patch, and its loss. A plain dict of names; to add one, write a
class and its line.
"""

from __future__ import annotations

from openmae.targets.base import Target
from openmae.targets.features import Features
from openmae.targets.hog import HOG
from openmae.targets.pca import PCA
from openmae.targets.pixels import NormPixels, Pixels
from openmae.targets.tokens import Tokens

TARGETS: dict[str, type[Target]] = {
    "pixels": Pixels,
    "norm_pixels": NormPixels,
    "pca": PCA,
    "hog": HOG,
    "features": Features,
    "tokens": Tokens,
}
