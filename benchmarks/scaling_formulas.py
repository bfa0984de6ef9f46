"""What pretraining costs on many GPUs, on paper: formulas of memory, traffic, time, checkpoints and
failures. Nothing is measured here; what is assumed is a constant with its source.

Bytes and rates are decimal (1 GB = 1e9 bytes), times are seconds. `P` is the number of parameters,
`N` the number of GPUs, `g` those of a node (8), `M = N / g` the nodes. All exchange is fp32:
weights and gradients have 4 bytes, autocast makes its bfloat16 copies locally.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from openmae.engine.flops import MAESize, Stack
from openmae.engine.memory import image_bytes
from openmae.models.masking import num_kept

NODE = 8
GPU_MEMORY = 80e9
PEAK = 989e12  # H100 SXM, dense bf16, operations a second: NVIDIA's data sheet
MFU = 0.40  # assumed share of it, of the published formulation's operations; no GPU was measured
NVLINK = 450e9  # H100 SXM: 900 GB/s in both directions together: NVIDIA's data sheet
NETWORK = 50e9  # one 400 Gb/s InfiniBand port for each GPU
LINK_SHARE = 0.8  # assumed share of a link's rate that large messages get
LATENCY = 10e-6  # assumed, of one step of a collective
OVERLAP = 0.8  # assumed share of the time beside which traffic runs unnoticed
DECODER = Stack(512, 8, 2048)
IMAGE, CHANNELS, MASK_RATIO = 224, 3, 0.75

INTERRUPTIONS, DAYS, GPUS = 419, 54, 16_384
"""Unexpected interruptions of the pretraining of Llama 3 (arXiv 2407.21783, section 3.3.4)."""
RESTART = 300.0  # assumed: notice, start all ranks, load the checkpoint
HASH_RATE = 1.8e9  # sha256 of one core, bytes a second, measured: AMD EPYC with SHA instructions
COPY_RATE = 25e9  # assumed, GPU to pinned memory over PCIe 5 x16


@dataclass(frozen=True)
class Model:
    """An encoder, with the paper's decoder of 8 x 512."""

    name: str
    encoder: Stack
    patch: int

    @property
    def size(self) -> MAESize:
        """What decides the cost of a step for one image."""
        patches, values = (IMAGE // self.patch) ** 2, self.patch**2 * CHANNELS
        kept = num_kept(patches, MASK_RATIO, "random")
        return MAESize(self.encoder, DECODER, patches, kept, 1, values, values)

    @property
    def block(self) -> int:
        """Parameters of an encoder block: see `block_parameters`."""
        return block_parameters(self.encoder.width, self.encoder.hidden)

    @property
    def parameters(self) -> int:
        """P: encoder D x depth, decoder d x 8, L patches of v values, frozen positions too.

        v D + D + D + (L + 1) D + depth block(D) + 2 D for the encoder, and D d + d + d + (L + 1) d
        + 8 block(d) + 2 d + d v + v for the decoder.
        """
        size, wide, thin = self.size, self.encoder.width, DECODER.width
        patches, values = size.patches, size.values
        encoder = values * wide + 4 * wide + (patches + 1) * wide + self.encoder.depth * self.block
        decoder = wide * thin + 4 * thin + (patches + 1) * thin + thin * values + values
        return encoder + decoder + DECODER.depth * block_parameters(thin, DECODER.hidden)


MODELS = (
    Model("ViT-B/16", Stack(768, 12, 3072), 16),
    Model("ViT-L/16", Stack(1024, 24, 4096), 16),
    Model("ViT-H/14", Stack(1280, 32, 5120), 14),
    Model("1 B (giant/14)", Stack(1408, 40, 6144), 14),
    Model("2 B (2560 x 24)", Stack(2560, 24, 10240), 14),
    Model("6.5 B (4096 x 32)", Stack(4096, 32, 16384), 14),
)


def block_parameters(width: int, hidden: int) -> int:
    """4 D^2 + 4 D of attention, 2 D h + h + D of the MLP, 4 D of two norms."""
    return 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width + 4 * width


# Memory.


def parts(layout: str, gpus: int) -> int:
    """Over how many ranks a parameter is spread: 1 for ddp, N for fsdp, at most g for hsdp."""
    return {"ddp": 1, "fsdp": gpus, "hsdp": min(gpus, NODE)}[layout]


def state_bytes(model: Model, layout: str, gpus: int, ema: bool = False) -> float:
    """Bytes of a rank that do not depend on the batch: (4 weights + 4 gradients + 8 AdamW + 4 EMA)
    P / parts; DDP adds the bf16 copies of autocast, 2 P; a sharded layout adds, whole, two blocks
    (the one in use and the next, 4 + 2 bytes) and one block's gradients (4).
    """
    each = 20 if ema else 16
    count = parts(layout, gpus)
    if count == 1:
        return (each + 2) * model.parameters
    return each * model.parameters / count + (2 * (4 + 2) + 4) * model.block


def activation_bytes(model: Model, checkpointing: bool = False) -> float:
    """Bytes of an image between forward and backward pass, bf16 autocast: openmae's own estimate
    (36 bytes a token and unit of width in each block). With checkpointing a block keeps its fp32
    input (4 bytes), and one block at a time is whole.
    """
    size = model.size
    whole = float(image_bytes(size, "bf16"))
    if not checkpointing:
        return whole
    seen, decoded = size.prefix + size.kept, size.prefix + size.patches
    encoder, decoder = seen * model.encoder.width, decoded * DECODER.width
    blocks = encoder * model.encoder.depth + decoder * DECODER.depth
    return whole - 36 * blocks + 4 * blocks + 36 * max(encoder, decoder)


def images_that_fit(
    model: Model, layout: str, gpus: int, checkpointing: bool = False, ema: bool = False
) -> int:
    """Most images of a GPU at a time, in 90 % of its memory."""
    free = 0.9 * GPU_MEMORY - state_bytes(model, layout, gpus, ema)
    return max(0, int(free // activation_bytes(model, checkpointing)))


# Traffic and time.


def gathered_s(size: float, gpus: int) -> float:
    """Seconds to all-gather, or reduce-scatter, `size` bytes over N GPUs: (k - 1) / k of them over
    NVLink among the k = min(N, g) of a node; between M nodes (M - 1) / M of the g-th part over each
    GPU's own port; a step of latency for each doubling of N.
    """
    inside, nodes = min(gpus, NODE), max(1, gpus // NODE)
    fast = (inside - 1) / inside * size / (LINK_SHARE * NVLINK)
    slow = (nodes - 1) / nodes * size / NODE / (LINK_SHARE * NETWORK)
    return fast + slow + LATENCY * math.ceil(math.log2(gpus))


def reduced_s(size: float, gpus: int) -> float:
    """Seconds to all-reduce: a reduce-scatter, then an all-gather."""
    return 2 * gathered_s(size, gpus)


def traffic(model: Model, layout: str, gpus: int) -> float:
    """Bytes that a rank sends in a step: ddp 2 (N - 1) / N 4 P; fsdp, which gathers the weights
    for the forward and again for the backward pass, 3 (N - 1) / N 4 P; hsdp 3 (k - 1) / k 4 P in
    its node of k and 2 (M - 1) / M 4 P / k between nodes.
    """
    whole = 4.0 * model.parameters
    if layout == "ddp":
        return 2 * (gpus - 1) / gpus * whole
    if layout == "fsdp":
        return 3 * (gpus - 1) / gpus * whole
    inside, nodes = min(gpus, NODE), max(1, gpus // NODE)
    return (3 * (inside - 1) / inside + 2 * (nodes - 1) / nodes / inside) * whole


def traffic_s(model: Model, layout: str, gpus: int) -> tuple[float, float]:
    """Seconds of a step's exchange beside the forward and beside the backward pass, if it had the
    links to itself. Latency is paid once for each block, or each 25 MB bucket of DDP.

    DDP: nothing, and an all-reduce. FSDP2: a gathering of the weights, and the same again with a
    reduce-scatter of the gradients. HSDP: these inside a node, and with the latter the all-reduce
    of each GPU's part between nodes.
    """
    whole = 4.0 * model.parameters
    if layout == "ddp":
        buckets = max(1, math.ceil(whole / 25e6))
        return 0.0, buckets * reduced_s(whole / buckets, gpus)
    units = model.encoder.depth + DECODER.depth + 1
    inside = units * gathered_s(whole / units, parts(layout, gpus))
    nodes = max(1, gpus // NODE)
    if layout == "fsdp" or nodes == 1:
        return inside, 2 * inside
    between = 2 * (nodes - 1) / nodes * whole / NODE / (LINK_SHARE * NETWORK)
    between += 2 * units * LATENCY * math.ceil(math.log2(nodes))
    return inside, 2 * inside + between


def compute_s(model: Model, images: float, checkpointing: bool = False) -> float:
    """Seconds of a GPU's own work on its images: operations / (peak x MFU); with checkpointing the
    forward pass is done twice, 4 / 3.
    """
    seconds = images * model.size.train() / (PEAK * MFU)
    return seconds * 4 / 3 if checkpointing else seconds


def efficiency(model: Model, layout: str, gpus: int, images: float) -> float:
    """Rate of N GPUs over N times that of one with the same images: work / (work + the exchange
    that is seen), work 1/3 forward and 2/3 backward, OVERLAP of each of which hides traffic.
    """
    work, (forward, backward) = compute_s(model, images), traffic_s(model, layout, gpus)
    seen = max(0.0, forward - OVERLAP * work / 3) + max(0.0, backward - OVERLAP * work * 2 / 3)
    return work / (work + seen)


def vote_s(hop: float, ranks: int) -> float:
    """Seconds of gloo's all-reduce of one number: a ring of 2 (N - 1) steps."""
    return 2 * (ranks - 1) * hop


# Checkpoints and failures.


def checkpoint_bytes(model: Model, ema: bool = False) -> float:
    """4 P weights + 8 P AdamW (+ 4 P EMA)."""
    return (16.0 if ema else 12.0) * model.parameters


def save_s(model: Model, disk: float, ema: bool = False) -> float:
    """Seconds in which rank 0 writes it, hashed in the same pass: bytes x (1 / disk + 1 / hash)."""
    return checkpoint_bytes(model, ema) * (1 / disk + 1 / HASH_RATE)


def copy_s(model: Model, ema: bool = False) -> float:
    """Seconds that a save in the background stops the run: the copy to the CPU's memory."""
    return checkpoint_bytes(model, ema) / COPY_RATE


def mean_time_between_failures(gpus: int) -> float:
    """Seconds, from Llama 3's GPU hours per interruption."""
    return DAYS * 86_400 * GPUS / INTERRUPTIONS / gpus


def young(cost: float, between: float) -> float:
    """Best seconds between checkpoints that cost `cost` each: sqrt(2 C M) (Young 1974)."""
    return math.sqrt(2 * cost * between)


def daly(cost: float, between: float) -> float:
    """Daly's (2006) higher order: sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 2M / 9) - C below C = 2M,
    else M.
    """
    if cost >= 2 * between:
        return between
    ratio = cost / (2 * between)
    return young(cost, between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def lost(interval: float, cost: float, between: float, restart: float = RESTART) -> float:
    """Share of the time that is lost, to first order: C / T saving, (T / 2 + R) / M done again."""
    return cost / interval + (interval / 2 + restart) / between
