"""Weights in and out: run folders, encoder files and timm names."""

from __future__ import annotations

from openmae.weights.encoderfile import load_encoder, save_encoder
from openmae.weights.load import Loaded, load, load_any, random_encoder

__all__ = ["Loaded", "load", "load_any", "load_encoder", "random_encoder", "save_encoder"]
