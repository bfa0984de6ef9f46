"""F40, the short form: two minutes of faults at random."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from soak import soak


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_soak(tmp_path: Path) -> None:
    seed = int(os.environ.get("OPENMAE_SOAK_SEED", random.randrange(10**6)))
    made = soak(tmp_path, 2.0, seed)
    assert made.runs >= 2
    assert len(made.fired) >= 4, f"seed {seed}: only {made.fired}"
