"""What each command can be told: one pydantic model a task. Imports neither torch nor timm, so help
is instant.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from openmae.config.base import Options, Settings, resolve
from openmae.errors import did_you_mean

TASKS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "openmae.config.pretrain:QuickstartConfig",
        "Pretrain, score and look, on built-in real data.",
    ),
    "pretrain": (
        "openmae.config.pretrain:PretrainConfig",
        "Pretrain a masked autoencoder on a folder of images.",
    ),
    "tokenize": (
        "openmae.config.tokenize:TokenizeConfig",
        "Train a tokenizer of patches, for pretrain --target tokens.",
    ),
    "knn": (
        "openmae.config.evaluate:KnnConfig",
        "Score frozen features with k nearest neighbours.",
    ),
    "probe": ("openmae.config.evaluate:ProbeConfig", "Score frozen features with a linear layer."),
    "finetune": (
        "openmae.config.finetune:FinetuneConfig",
        "Train a classifier on a pretrained encoder.",
    ),
    "evaluate": (
        "openmae.config.finetune:EvaluateConfig",
        "Score a classifier, also on ImageNet-C, -A, -R and -Sketch.",
    ),
    "predict": ("openmae.config.finetune:PredictConfig", "Write the classes of images."),
    "detect": (
        "openmae.config.detect:DetectConfig",
        "Train a detector on a pretrained encoder: boxes and masks of objects.",
    ),
    "detect evaluate": (
        "openmae.config.detect:DetectEvaluateConfig",
        "Score a detector on images with objects.",
    ),
    "detect predict": (
        "openmae.config.detect:DetectPredictConfig",
        "Find objects in images, as COCO results and pictures.",
    ),
    "segment": (
        "openmae.config.segment:SegmentConfig",
        "Train a segmenter on a pretrained encoder: a class for every pixel.",
    ),
    "segment evaluate": (
        "openmae.config.segment:SegmentEvaluateConfig",
        "Score a segmenter on images with masks.",
    ),
    "segment predict": (
        "openmae.config.segment:SegmentPredictConfig",
        "Write masks of images, and pictures of them.",
    ),
    "embed": ("openmae.config.evaluate:EmbedConfig", "Write one feature vector for each image."),
    "reconstruct": ("openmae.config.pictures:ReconstructConfig", "Show what the model fills in."),
    "attention": ("openmae.config.pictures:AttentionConfig", "Show where a patch looks."),
    "demo": (
        "openmae.config.demo:DemoConfig",
        "Explore reconstructions in the browser: paint what is hidden.",
    ),
    "report": (
        "openmae.config.report:ReportConfig",
        "Make one HTML page of a run, or of several side by side.",
    ),
    "watch": ("openmae.config.watch:WatchConfig", "Watch a run in the browser while it goes on."),
    "data check": (
        "openmae.config.check:CheckConfig",
        "Say what a data set holds and what is wrong with it.",
    ),
    "inspect": ("openmae.config.convert:InspectConfig", "Say what a checkpoint is."),
    "convert": (
        "openmae.config.convert:ConvertConfig",
        "Write a model for the official code, Hugging Face, timm or openmae.",
    ),
    "export": ("openmae.config.convert:ExportConfig", "Write a model as ONNX or torch.export."),
    "pack": (
        "openmae.config.pack:PackConfig",
        "Put images into few large files that are read much faster.",
    ),
    "ablate": (
        "openmae.config.ablate:AblateConfig",
        "Pretrain and score a grid of settings with several seeds; tables of the paper.",
    ),
    "compare": (
        "openmae.config.compare:CompareConfig",
        "Pretrain and score several methods alike, or compare runs that are there.",
    ),
    "benchmark": (
        "openmae.config.benchmark:BenchmarkConfig",
        "Measure how fast this machine pretrains, and what limits it.",
    ),
    "doctor": (
        "openmae.config.doctor:DoctorConfig",
        "Check this machine: disk, devices, ranks, a short run, a killed one.",
    ),
    "slurm": (
        "openmae.config.slurm:SlurmConfig",
        "Write the script of a SLURM job, of one or many nodes.",
    ),
    "models": ("openmae.config.evaluate:ModelsConfig", "List the encoders that can be pretrained."),
}
"""Command -> its settings and one line of help. The task itself is `run` in the module of
`openmae.tasks` that `module_of` names.
"""


_OWN_MODULE = {"attention": "attentionmaps"}  # tasks.attention chooses how runs attend


def module_of(task: str) -> str:
    """The module of a task: of two words the second (`data check` is `check`), or both where the
    first is a command by itself (`segment evaluate` is `segmentevaluate`).
    """
    words = task.split()
    if task in _OWN_MODULE:
        return _OWN_MODULE[task]
    return "".join(words) if words[0] in TASKS else words[-1]


def settings(task: str) -> type[Settings]:
    """The settings model of a task; only this one is imported."""
    module, name = TASKS[task][0].split(":")
    found: type[Settings] = getattr(importlib.import_module(module), name)
    return found


def command_of(words: Sequence[str]) -> str | None:
    """The task that words ask for, also one of two words such as "data check"."""
    two = " ".join([w for w in words if not w.startswith("-")][:2])
    return two if two in TASKS else next((w for w in words if w in TASKS), None)


def no_command(words: Sequence[str]) -> str:
    """What to say of words that begin with no command: which one is near, and which there are."""
    family = any(name.startswith(f"{words[0]} ") for name in TASKS)
    word = " ".join(words[:2]) if family else words[0]
    near = [n for n in TASKS if n.endswith(f" {word}")] or did_you_mean(word, TASKS)
    hint = "no such command."
    if near:
        hint = f"did you mean {'openmae ' if ' ' in near[0] else ''}{near[0]}?"
    return f"{word}: {hint} Commands: {', '.join(TASKS)}"


__all__ = [
    "TASKS",
    "Options",
    "Settings",
    "command_of",
    "module_of",
    "no_command",
    "resolve",
    "settings",
]
