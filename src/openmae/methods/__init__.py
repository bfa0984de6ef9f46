"""Everything that the one training loop trains: an nn.Module whose forward takes a batch and
returns a dict with "loss".
"""

from __future__ import annotations

from torch import nn

from openmae.methods.classify import Classifier
from openmae.methods.detect import Detector
from openmae.methods.mae import MAE
from openmae.methods.segment import Segmenter

METHODS: dict[str, type[nn.Module]] = {
    "mae": MAE,
    "classify": Classifier,
    "detect": Detector,
    "segment": Segmenter,
}
