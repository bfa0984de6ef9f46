"""`openmae models`: the encoders that can be pretrained."""

from __future__ import annotations

from openmae.config.base import Options
from openmae.config.evaluate import ModelsConfig
from openmae.engine.runfolder import Results
from openmae.errors import UsageError
from openmae.models.encoder import list_models


def run(config: ModelsConfig, options: Options) -> Results:
    """Print the names, one a line."""
    names = list_models(config.filter)
    if not names:
        raise UsageError(
            f"no model has {config.filter!r} in its name. `openmae models` lists them all"
        )
    print("\n".join(names))
    return Results({"models": names, "n": len(names)})
