"""Images a second and core of the data path: the classic pipeline against ours, from a folder and
from packed images.

Photos brought to 500x375 (JPEG quality 90), the same order and the same crops for all: the classic
pipeline is Pillow, RandomResizedCrop (bicubic) and flip, ToTensor, Normalize. One process, one
thread, one batch of each in turn, medians. Then two loader processes end to end, and what an entry
costs each of them in memory. Before timing counts, the crops must look alike.

    python benchmarks/loader.py --photos DIR --rounds 9 --json out.json

Without --photos, images with structure are generated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # counts only before torch is loaded

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from openmae.data.folder import FolderSource
from openmae.data.loader import TrainBatches, loader
from openmae.data.packed import PackedSource
from openmae.data.packing import Packer
from openmae.data.packjob import job_of
from openmae.data.records import Form
from openmae.data.source import ArraySource, Source
from openmae.data.sources import open_source
from openmae.data.transforms import TrainTransform, crop_box
from openmae.data.values import Decoding
from openmae.engine.device import environment

WIDTH, HEIGHT, QUALITY = 500, 375, 90
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RGB = Decoding(channels=3)


def make_photos(folder: Path, photos: Path | None, count: int) -> str:
    """Write `count` JPEG files of 500x375; says from what."""
    folder.mkdir()
    files = sorted(p for p in photos.rglob("*") if p.is_file()) if photos else []
    for i in range(count):
        picture = _resized(files[i % len(files)]) if files else _generated(i)
        picture.save(folder / f"{i:05d}.jpg", quality=QUALITY)
    return f"{len(files)} photos" if files else "generated images"


def _resized(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def _generated(seed: int) -> Image.Image:
    """Waves of several scales, edges, and a little noise: about as many bytes as a photo."""
    rng = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH, 3), 128.0)
    for scale in (3, 6, 12, 25, 50, 100):
        small = rng.normal(0, 1, (scale, scale, 3))
        for c in range(3):
            plane = Image.fromarray(small[..., c].astype(np.float32))
            image[..., c] += 40 / scale**0.3 * np.asarray(plane.resize((WIDTH, HEIGHT)))
    for _ in range(12):
        top, left = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
        image[top : top + 60, left : left + 90] += rng.normal(0, 40, 3)
    image += rng.normal(0, 4, image.shape)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def pack(source: Source, out: Path, mode: str) -> PackedSource:
    """As `openmae pack` does."""
    form = Form(mode, 256 if mode == "jpeg" else 0, 90 if mode == "jpeg" else 0, 10**9)  # type: ignore[arg-type]
    packer = Packer(source, out, form, job_of(source, form))
    with packer.locked():
        packer.begin()
        packer.write(0, lambda: None, lambda images, size: None)
        packer.finish()
    return PackedSource(out, source.decoding)


class Classic(Dataset[dict[str, Tensor]]):
    """The usual pipeline, with the order and the draws of `batches`."""

    def __init__(self, batches: TrainBatches, root: Path, transform: TrainTransform) -> None:
        self.batches, self.root, self.transform = batches, root, transform

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        batches, transform = self.batches, self.transform
        first = step * batches.global_batch
        draws = transform.draws(first, batches.rows)
        made = []
        for slot in range(batches.rows):
            path = self.root / batches.source.path(batches.index(first + slot))
            with path.open("rb") as file:
                picture = Image.open(file).convert("RGB")
            boxes = draws[slot][:-1].reshape(-1, 4)
            box = crop_box(picture.height, picture.width, transform.crop, boxes)
            picture = F.resized_crop(picture, *box, list(transform.size), InterpolationMode.BICUBIC)
            if draws[slot][-1] < 0.5:
                picture = F.hflip(picture)
            made.append(F.normalize(F.to_tensor(picture), MEAN, STD))
        return {"image": torch.stack(made)}


def check_alike(theirs: Tensor, ours: Tensor, most: float) -> float:
    """Mean difference in levels of 255; more than `most` would compare different work."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    difference = float(((theirs * std + mean) * 255 - ours.float()).abs().mean())
    if difference > most:
        raise SystemExit(f"crops differ by {difference:.1f} levels: that is not the same work")
    return difference


def in_turn(paths: dict[str, Dataset[Any]], rounds: int, images: int) -> list[dict[str, Any]]:
    """One batch of each in turn; the first two rounds warm up."""
    wall: dict[str, list[float]] = {name: [] for name in paths}
    cpu: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 2):
        for name, batch in paths.items():
            start, used = time.perf_counter(), time.process_time()
            batch[number]
            if number >= 2:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - used)
    rows = []
    for name in paths:
        median, used = statistics.median(wall[name]), statistics.median(cpu[name])
        rows.append(
            {
                "name": name,
                "images_per_s": images / median,
                "images_per_cpu_s": images / used,
                "median_s": median,
                "all_s": wall[name],
                "all_cpu_s": cpu[name],
            }
        )
    for row in rows:
        row["ratio_to_classic"] = row["images_per_s"] / rows[0]["images_per_s"]
        row["cpu_ratio_to_classic"] = row["images_per_cpu_s"] / rows[0]["images_per_cpu_s"]
    return rows


def end_to_end(paths: dict[str, Dataset[Any]], workers: int, steps: int) -> dict[str, float]:
    """Images a second from some loader processes, without their start; medians of three."""
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(3):
        for name, batches in paths.items():
            stream = loader(batches, range(steps + 1), workers)
            next(stream)
            start = time.perf_counter()
            images = sum(len(batch["image"]) for batch in stream)
            rates[name].append(images / (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in rates.items()}


class _Many(ArraySource):
    """Tiny images with names as long as those of ImageNet."""

    def row_path(self, row: int) -> str:
        return f"n{row % 1000:08d}/n{row % 1000:08d}_{row:06d}.JPEG"


def entry_memory(folder: Path, count: int) -> dict[str, float]:
    """What a packed set of many images costs: seconds to open it, and private bytes of a process
    that has opened it and read every image, for each.
    """
    images = np.zeros((count, 1, 1, 3), dtype=np.uint8)
    labels = np.arange(count) % 1000
    pack(_Many("many", images, labels, [str(i) for i in range(1000)]), folder, "raw")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before, start = _private(), time.perf_counter()
        source = open_source(str(folder))
        opened = time.perf_counter() - start
        for index in range(count):
            source[index]
        os.write(writer, f"{opened} {_private() - before}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    opened, private = (float(word) for word in os.read(reader, 100).split())
    return {
        "entries": count,
        "open_s": opened,
        "bytes_per_entry_in_process": private / count,
        "bytes_per_entry_in_index": (folder / "index.safetensors").stat().st_size / count,
    }


def _private() -> int:
    """Bytes that this process has written: what is mapped from files is shared by all."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything."""
    torch.set_num_threads(1)
    root = folder / "photos"
    what = make_photos(root, args.photos, args.images)
    files = sorted(p.name for p in root.iterdir())
    sources: dict[str, Source] = {"folder": FolderSource(root, files, RGB)}
    for mode in ("jpeg", "lossless", "raw"):
        sources[f"packed {mode}"] = pack(sources["folder"], folder / mode, mode)
    transform = TrainTransform((224, 224))
    batches = {n: TrainBatches(s, transform, 0, args.batch_size) for n, s in sources.items()}
    usual = Classic(batches["folder"], root, transform)
    theirs = usual[0]["image"]
    most = {"packed jpeg": 12.0}  # brought down to 256, and written again
    alike = {n: check_alike(theirs, b[0]["image"], most.get(n, 2.0)) for n, b in batches.items()}
    paths: dict[str, Dataset[Any]] = {"classic": usual, **batches}
    rows = in_turn(paths, args.rounds, args.batch_size)
    result = {
        "rows": rows,
        "levels_from_classic": alike,
        "images": what,
        "files": len(files),
        "file_bytes": sum((root / f).stat().st_size for f in files) / len(files),
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "workers": args.workers,
        "end_to_end_images_per_s": end_to_end(paths, args.workers, args.rounds),
        "machine": environment(torch.device("cpu")),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
    }
    if args.entries:
        result["memory"] = entry_memory(folder / "many", args.entries)
    return result


def main() -> None:
    """Parse the words, measure, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="a folder of photos; generated without")
    parser.add_argument("--images", type=int, default=116, help="files that are made")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2, help="of the end-to-end part")
    parser.add_argument("--entries", type=int, default=200_000, help="of the memory part; 0: none")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    for row in result["rows"]:
        print(
            f"{row['name']:<18} {row['images_per_s']:8.0f} img/s  x{row['ratio_to_classic']:.2f}"
            f"   CPU time x{row['cpu_ratio_to_classic']:.2f}"
        )
    for name, rate in result["end_to_end_images_per_s"].items():
        print(f"{args.workers} workers, {name:<18} {rate:8.0f} img/s")
    for name, value in result.get("memory", {}).items():
        print(f"memory: {name} {value:.4g}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
