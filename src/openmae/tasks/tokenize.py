"""`openmae tokenize`: a folder of images in, a run folder with a tokenizer of patches out. The same
command again continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openmae.config.base import Options
from openmae.config.tokenize import TokenizeConfig
from openmae.config.training import pair
from openmae.data.check import Scan
from openmae.data.loader import EvalBatches, Transform, loader
from openmae.data.sources import Source, short_name
from openmae.data.transforms import EvalTransform, TrainTransform
from openmae.data.values import Decoding
from openmae.engine.log import say, warn
from openmae.engine.loop import Plan, State
from openmae.engine.optim import param_groups
from openmae.engine.runfolder import Results, RunFolder
from openmae.errors import DataError, UsageError
from openmae.methods.tokenizer import Tokenizer
from openmae.models.codebook import normalised, perplexity
from openmae.models.patches import unpatchify
from openmae.report.codes import sheet_of_codes
from openmae.tasks.evaluator import thin
from openmae.tasks.kind import Job, Kind
from openmae.tasks.pretrain import look_again, look_at, open_data, read_as, scale_line, scale_of
from openmae.tasks.targeting import first_images, spaced
from openmae.tasks.training import train_run
from openmae.weights.methodfile import save_method

FILE = "tokenizer.safetensors"
MEASURED = 2000
"""Images that it is measured on, at most."""


def run(config: TokenizeConfig, options: Options) -> Results:
    """Train a tokenizer, or continue a run; returns the final measures, exit code 75 after an early
    stop.
    """
    return train_run(Tokenizing(), config, options)


class Tokenizing(Kind):
    """A tokenizer on images without labels."""

    task = "tokenize"
    settings = TokenizeConfig
    architecture = ("kind", "codes", "width", "hidden")

    def default_out(self, config: TokenizeConfig) -> Path:
        return Path("runs") / f"tokenizer-{short_name(config.data)}"

    def default_recipe(self, config: TokenizeConfig, device_type: str) -> str:
        return config.kind

    def open_data(
        self, config: TokenizeConfig, resolved: Mapping[str, Any]
    ) -> tuple[Source, Source | None]:
        return open_data(config, read_as(config, resolved))

    def look(self, config: TokenizeConfig, source: Source) -> Scan:
        return look_at(config, source)

    def resolve(self, config: TokenizeConfig, source: Source, found: Scan) -> dict[str, Any]:
        return scale_of(config, found)

    def decoding(self, config: TokenizeConfig, resolved: Mapping[str, Any]) -> Decoding:
        return read_as(config, resolved)

    def recheck(self, config: TokenizeConfig, resolved: Mapping[str, Any], source: Source) -> None:
        look_again(config, resolved, source)

    def build(self, config: TokenizeConfig, resolved: Mapping[str, Any]) -> Tokenizer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return Tokenizer(
                patch_size=config.patch,
                in_chans=config.channels,
                mean=resolved["mean"],
                std=resolved["std"],
                codes=config.codes,
                kind=config.kind,
                width=config.width,
                hidden=config.hidden,
                image_size=pair(config.image_size),
                value_range=resolved["value_range"],
                bands=[band - 1 for band in config.bands],
            )

    def start(self, config: TokenizeConfig, method: nn.Module) -> str | None:
        assert isinstance(method, Tokenizer)
        reads = method.arguments  # mean, std and value_range among them
        source, _ = open_data(config, read_as(config, reads))
        images = first_images(source, self.transform(config, reads), config.seed)
        patches = spaced(method.patches(images))
        try:
            method.codebook.begin(patches)
        except ValueError as error:
            raise UsageError(
                f"--codes {config.codes}: {error} in {len(images)} images. Give fewer"
            ) from None
        return f"{config.codes:,} codes from {len(patches):,} patches of {len(images)} images"

    def groups(self, config: TokenizeConfig, method: nn.Module) -> list[dict[str, Any]]:
        return param_groups(method, config.weight_decay)

    def transform(self, config: TokenizeConfig, resolved: Mapping[str, Any]) -> Transform:
        return TrainTransform(pair(config.image_size), config.crop, config.flip, config.seed)

    def evaluator(
        self, job: Job, folder: RunFolder, plan: Plan, device: torch.device
    ) -> Callable[[State], Mapping[str, Any]]:
        def evaluate(state: State) -> Mapping[str, Any]:
            if job.held_out is None:
                return {}
            found, _ = measure(state.method, job.held_out, job.config.batch_size)
            return {f"val_{name}": found[name] for name in ("error", "perplexity", "codes_used")}

        return evaluate

    def describe(self, job: Job, method: nn.Module) -> list[tuple[str, str]]:
        config, found = job.config, job.found
        assert found is not None
        (height, width), (p, q) = pair(config.image_size), config.patch
        count = sum(weight.numel() for weight in method.parameters())
        size = f", {config.width} numbers each" if config.kind == "vqvae" else ""
        return [
            ("", scale_line(config, job.resolved, found)),
            (
                "Model",
                f"{config.kind}, {config.codes:,} codes{size}, {height}x{width} px, patch {p}x{q},"
                f" {count / 1e6:.2f} M parameters",
            ),
        ]

    def finish(self, job: Job, state: State, folder: RunFolder) -> dict[str, Any]:
        model, (source, where) = state.method, (job.source, "training images")
        assert isinstance(model, Tokenizer)
        if job.held_out is not None:
            source, where = job.held_out, "held-out images"
        found, counts = measure(model, source, job.config.batch_size)
        save_method(folder.path / FILE, model)
        _picture(model, counts, folder)
        say(
            "Codes",
            f"{found['codes_used']:.1%} of {job.config.codes:,} used, perplexity"
            f" {found['perplexity']:.1f}; error {found['error']:.4f}, of a mean fill"
            f" {found['mean_fill_error']:.4f} ({found['n']:,} {where}, {found['tokens']:,} tokens)",
        )
        return found | {"measured_on": where}

    def next_steps(self, job: Job, folder: RunFolder) -> list[str]:
        given = f"--target-args tokenizer={folder.path}"
        return [
            f"openmae pretrain {job.config.data} --target tokens {given}",
            f"openmae pretrain {job.config.data} --method beit {given}",
        ]


@torch.no_grad()
def measure(
    model: nn.Module, source: Source, batch_size: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """Mean squared error of normalised patches, that of a mean fill, the share of the codes that is
    used, their perplexity, images and tokens; and how often each code is used (V,). The images are
    resized and cut in the centre, at most 2,000 of them, evenly spaced.

    Raises:
        DataError: none can be read.
    """
    assert isinstance(model, Tokenizer)
    before, device = model.training, model.codebook.codes.device
    model.eval()
    counts = torch.zeros(len(model.usage), dtype=torch.long)
    error = fill = images = 0.0
    transform = EvalTransform(model.image_size)
    batches = EvalBatches(thin(source, MEASURED), transform, min(256, batch_size))
    for batch in loader(batches, range(len(batches)), 0):
        if batch["image"] is None:
            continue
        patches = model.patches(batch["image"].to(device))
        _, errors, ids = model.codebook(patches)
        counts += torch.bincount(ids.flatten().cpu(), minlength=len(counts))
        error += float(errors.double().mean(dim=1).sum())
        fill += float(normalised(patches).double().square().mean(dim=(1, 2)).sum())
        images += len(patches)
    model.train(before)
    if not images:
        raise DataError(f"None of the images in {source.name} can be read")
    found = {
        "error": error / images,
        "mean_fill_error": fill / images,
        "codes_used": float((counts > 0).double().mean()),
        "perplexity": float(perplexity(counts)),
        "n": int(images),
        "tokens": int(counts.sum()),
    }
    return found, counts


@torch.no_grad()
def _picture(model: Tokenizer, counts: torch.Tensor, folder: RunFolder) -> None:
    """The codes as patches, the most used first."""
    order = counts.argsort(descending=True, stable=True).to(model.codebook.codes.device)
    patches = model.codebook.rebuilt(order)[:, None]
    codes = unpatchify(patches, model.patch, (1, 1)).float().cpu().numpy()
    try:
        folder.pictures.mkdir(exist_ok=True)
        sheet_of_codes(codes).save(folder.pictures / "codes.png")
    except OSError as error:
        warn(f"no picture of the codes: {error.strerror or error}")
