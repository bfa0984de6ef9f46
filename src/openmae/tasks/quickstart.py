"""`openmae quickstart`: pretrain, score and look, on real handwritten digits that come with scikit-
learn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openmae.config.base import Options, resolve
from openmae.config.evaluate import KnnConfig, ProbeConfig
from openmae.config.pictures import ReconstructConfig
from openmae.config.pretrain import PretrainConfig, QuickstartConfig
from openmae.engine.log import say
from openmae.engine.runfolder import Results, RunFolder
from openmae.tasks import knn, pretrain, probe, reconstruct


def run(config: QuickstartConfig, options: Options) -> Results:
    """Run the main job once, end to end; a second call only scores and looks again."""
    say(
        "Quickstart: 1,797 real handwritten digits (8x8 pixels, scikit-learn), 1,437 to train on,"
        " 360 to test"
    )
    given: dict[str, Any] = {
        "data": "digits",
        "out": config.out,
        "seed": config.seed,
        "device": config.device,
    }
    if config.epochs is not None:
        given["epochs"] = config.epochs
    trained = pretrain.run(resolve(PretrainConfig, given), Options())
    if trained.exit_code:
        return trained
    where = {"model": config.out, "data": "digits", "device": config.device, "seed": config.seed}
    say("\nk-NN and linear probe on the encoder's frozen features, beside honest baselines")
    results: dict[str, Any] = dict(knn.run(resolve(KnnConfig, where), Options()))
    results |= probe.run(resolve(ProbeConfig, where), Options())
    picture = str(Path(config.out) / "pictures" / "reconstruction.png")
    say("\nReconstruction of digits that the model never saw")
    shown = {"model": config.out, "images": ("digits",), "out": picture, "device": config.device}
    reconstruct.run(resolve(ReconstructConfig, shown), Options())
    results |= reconstruct.errors(config.out, "digits", config.device)
    results = {**trained, **results, "n": 360, "seed": config.seed}
    RunFolder(Path(config.out)).write_json("results.json", results)
    _explain(results, config, picture)
    return Results(results, Path(config.out))


def _explain(results: dict[str, Any], config: QuickstartConfig, picture: str) -> None:
    ratio = results["reconstruction_mse"] / results["mean_fill_mse"]
    gain = 100 * (results["probe_accuracy"] - results["random_weights_probe_accuracy"])
    taught = "pretraining taught it" if gain > 0 else "no gain: train longer"
    say("\nWhat this shows")
    say(
        f"  The linear probe is {gain:+.1f} points from the same network with random weights:"
        f" {taught}."
    )
    say(
        f"  Hidden patches are filled in at {ratio:.0%} of the error of a mean fill: look at"
        f" {picture}"
    )
    if results["raw_pixels_knn_accuracy"] > results["knn_accuracy"]:
        say(
            "  Raw pixels win k-NN here, and should: 8x8 digits are centred and scaled alike, so"
            " equal digits share"
        )
        say(
            "  their pixels, and 64 numbers hide nothing. On photographs nearest pixels mean little"
            " (see docs/results.md)."
        )
    say("\nYour own folder of images (labels are not needed):")
    say("  openmae pretrain PHOTOS/ --out runs/photos")
    say("  openmae reconstruct runs/photos PHOTOS/ -o reconstruction.png")
    say("  openmae embed runs/photos PHOTOS/ -o features.npz")
    say("  openmae probe runs/photos LABELLED/     (one folder for each class)")
