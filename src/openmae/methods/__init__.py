"""Everything that the one training loop trains: an nn.Module whose forward takes a batch and
returns a dict with "loss".
"""

from __future__ import annotations

from torch import nn

from openmae.methods.beit import BEiT
from openmae.methods.byol import BYOL
from openmae.methods.classify import Classifier
from openmae.methods.detect import Detector
from openmae.methods.dino import DINO
from openmae.methods.groupedmae import GroupedMAE
from openmae.methods.ibot import IBOT
from openmae.methods.mae import MAE
from openmae.methods.maskfeat import MaskFeat
from openmae.methods.mocov3 import MoCoV3
from openmae.methods.segment import Segmenter
from openmae.methods.simclr import SimCLR
from openmae.methods.simmim import SimMIM
from openmae.methods.tokenizer import Tokenizer

METHODS: dict[str, type[nn.Module]] = {
    "mae": MAE,
    "grouped_mae": GroupedMAE,
    "simclr": SimCLR,
    "byol": BYOL,
    "mocov3": MoCoV3,
    "dino": DINO,
    "ibot": IBOT,
    "simmim": SimMIM,
    "maskfeat": MaskFeat,
    "beit": BEiT,
    "tokenizer": Tokenizer,
    "classify": Classifier,
    "detect": Detector,
    "segment": Segmenter,
}


def name_of(method: nn.Module) -> str:
    """The name of a method in `METHODS`."""
    return next(name for name, kind in METHODS.items() if type(method) is kind)
