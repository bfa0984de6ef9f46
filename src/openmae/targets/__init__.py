"""What is predicted for a hidden patch, and its loss. A plain dict of names; to add one, write a
class and its line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from openmae.errors import UsageError, no_argument
from openmae.models.encoder import Encoder
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


def arguments_of(name: str) -> dict[str, Any]:
    """The arguments that a target can be told, with their defaults."""
    return _defaults(TARGETS[name].__init__)


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return {n: p.default for n, p in known.items() if p.default is not inspect.Parameter.empty}


def target_of(name: str, encoder: Encoder, /, **told: Any) -> Target:
    """The target of a name for the patches that an encoder sees.

    Raises:
        UsageError: an argument that it does not have, or values that do not fit.
    """
    own = arguments_of(name)
    known = own | _defaults(TARGETS[name].of)  # how it was made, too
    for argument in told:
        if argument not in known:
            raise UsageError(no_argument(f"target {name}", argument, own))
    return TARGETS[name].of(encoder, **told)
