"""What the pages tell their readers to type: the blocks, and the lines of shell in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(?P<kind>[\w{}-]*)[^\n]*\n(?P<text>.*?)^```", re.M | re.S)
INDENTED = re.compile(r"^ {4}([^\s][^\n]+)$", re.M)
SPAN = re.compile(r"`([a-z.]+ [^`\n]+)`")
SHELL = ("openmae ", "make ", "python ", "pip ", "torchrun ", "sbatch ", ". .venv")
EXAMPLES = ("...",)  # a line with this word leaves something out on purpose

PLACES = {
    "RUN": "runs/x", "RUN...": "runs/x", "FILE": "runs/a/encoder.safetensors", "S": "0",
    "HELD_OUT_IMAGES...": "nuclei/0.png", "IMAGES": "photos/", "RANDOM_ENCODER": "runs/x",
    "A": "photos", "B": "labelled", "F.npz": "f.npz", "folder/": "photos/",
    "/scratch/runs": "scratch",
}  # fmt: skip
"""What a page leaves to its reader -> what may stand for it."""


def blocks(page: Path, *kinds: str) -> list[str]:
    """The code blocks of these languages."""
    text = page.read_text(encoding="utf-8")
    return [b["text"] for b in BLOCK.finditer(text) if b["kind"] in kinds]


def lines_of(text: str) -> list[str]:
    """The lines of a block, a continued one whole."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip()]


def commands(page: Path) -> list[str]:
    """The command lines of a page, in order: in blocks without a language, and indented ones."""
    text = page.read_text(encoding="utf-8")
    found: list[tuple[int, str]] = []
    for block in BLOCK.finditer(text):
        if block["kind"] in ("", "bash", "sh", "console"):
            found += [(block.start(), line) for line in lines_of(block["text"])]
    blank = BLOCK.sub(lambda block: re.sub(r"\S", " ", block[0]), text)
    found += [(m.start(), m[1]) for m in INDENTED.finditer(blank) if m[1].startswith(SHELL)]
    lines = [line for _, line in sorted(found, key=lambda one: one[0])]
    return [re.sub(r"\s+#.*$", "", line) for line in lines]


def whole(lines: list[str]) -> list[str]:
    """Those of openmae that leave nothing out."""
    own = [line for line in lines if line.startswith("openmae ")]
    return [line for line in own if not any(word in line.split() for word in EXAMPLES)]


def told(page: Path) -> list[str]:
    """The whole commands of a page."""
    return whole(commands(page))


def _sentences(page: Path) -> list[str]:
    return SPAN.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))


def spans(page: Path) -> list[str]:
    """The commands within its sentences."""
    return whole(_sentences(page))


def shell(page: Path) -> list[str]:
    """Other shell lines within its sentences."""
    return [s for s in _sentences(page) if s.startswith(SHELL) and not s.startswith("openmae ")]


def words_of(line: str) -> list[str]:
    """The words behind `openmae`, with names for what is left to the reader."""
    words = [PLACES.get(word, word) for word in shlex.split(line)[1:]]
    return [re.sub(r"^runs/qS$", "runs/q0", word) for word in words]
