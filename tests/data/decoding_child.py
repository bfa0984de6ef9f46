"""Decodes mutated files, each in a child of its own with little memory; a program of the tests.

    python decoding_child.py COUNT SEED FILE...
    python decoding_child.py describe FILE...

Prints one line of JSON for each case that ended in another way than an array or DataError, and at
last a summary; or else what each file is, and the memory it took. It is a program because the
children are forked, and the tests' own process has threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from openmae.data.decode import read_band_names, read_header, read_image
from openmae.errors import DataError

ADDRESS_SPACE = 3 * 1024**3
SECONDS = 10
RESIDENT = 1024**2  # kB: 1 GB


def mutate(data: bytes, other: bytes, rand: random.Random) -> bytes:
    """One of: flipped bits, cut, spliced, header numbers changed, a run overwritten or repeated."""
    found = bytearray(data)
    kind = rand.randrange(7)
    near = min(len(found), rand.choice((64, 512, 4096, len(found))))
    if kind == 0:
        for _ in range(rand.choice((1, 3, 20))):
            found[rand.randrange(near)] ^= 1 << rand.randrange(8)
    elif kind == 1:
        del found[rand.randrange(len(found)) :]
    elif kind == 2:
        at = rand.randrange(near)
        found[at:] = other[rand.randrange(len(other)) :]
    elif kind == 3:  # numbers of a header
        for _ in range(rand.choice((1, 2, 4))):
            size = rand.choice((1, 2, 4, 8))
            at = rand.randrange(near)
            value = rand.choice((0, 1, 2, 255, 65535, 2**31 - 1, 2**32 - 1, rand.getrandbits(32)))
            order = rand.choice(("big", "little"))
            found[at : at + size] = (value % 256**size).to_bytes(size, order)
    elif kind == 4:
        at, length = rand.randrange(near), rand.choice((1, 4, 30, 300))
        found[at : at + length] = rand.randbytes(length)
    elif kind == 5:
        at, length = rand.randrange(near), rand.choice((1, 4, 30, 300))
        del found[at : at + length]
    else:
        at, length = rand.randrange(near), rand.choice((4, 12, 100))
        found[at:at] = found[at : at + length] * rand.choice((1, 2, 50))
    return bytes(found)


def outcome(data: bytes) -> str:
    """What a file is to the decoders; other exceptions leave here."""
    try:
        header = read_header(data)
    except DataError:
        header = None
    read_band_names(data)
    try:
        image = read_image(data)
    except DataError as error:
        return "refused" if 0 < len(str(error)) <= 300 and "\n" not in str(error) else "bad words"
    if image.ndim != 3 or image.size == 0:
        return f"shape {image.shape}"
    if header is None:
        return "read without a header"
    same = (header.height, header.width, header.channels, header.dtype)
    return "read" if same == (*image.shape, str(image.dtype)) else f"header {header} {image.shape}"


def describe(data: bytes) -> str:
    """What a file decodes to, or why not, as JSON."""
    try:
        image = read_image(data)
    except DataError as error:
        return json.dumps({"outcome": "refused", "reason": str(error)})
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:12]
    about = {"shape": "x".join(map(str, image.shape)), "dtype": str(image.dtype)}
    mean = float(image.mean(dtype=np.float64))
    return json.dumps({"outcome": "read", **about, "mean": f"{mean:.4g}", "sha256": digest})


def child(data: bytes, write: int, what: Callable[[bytes], str]) -> None:
    """Decode and report; never returns."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    try:
        found = what(data)
    except BaseException:
        found = "exception " + traceback.format_exc()[-1500:]
    os.write(write, found.encode()[:4000])
    os._exit(0)


def run(data: bytes, what: Callable[[bytes], str] = outcome) -> tuple[str, int]:
    """The outcome of one file in a child, and its peak memory in kB."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        child(data, write, what)
    os.close(write)
    _, status, usage = os.wait4(pid, 0)
    found = os.read(read, 4096).decode()
    os.close(read)
    if os.WIFSIGNALED(status):
        found = f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return found, usage.ru_maxrss


def main(count: int, seed: int, paths: list[str]) -> None:
    """`count` mutations over the files in turn."""
    files = [Path(path).read_bytes() for path in paths]
    for data in files:  # loads every decoder once, before the forks
        with contextlib.suppress(DataError):
            read_image(data)
    tally: Counter[str] = Counter()
    peak = 0
    for number in range(count):
        rand = random.Random(f"{seed} {number}")
        which = number % len(files)
        data = mutate(files[which], rand.choice(files), rand)
        found, memory = run(data)
        peak = max(peak, memory)
        if found not in ("read", "refused") or memory > RESIDENT:
            tally["bad"] += 1
            case = {"number": number, "file": paths[which], "found": found, "memory": memory}
            print(json.dumps(case), flush=True)
            if os.environ.get("KEEP_CASES"):
                Path(os.environ["KEEP_CASES"], f"{seed}-{number}.bin").write_bytes(data)
        else:
            tally[found] += 1
    print(json.dumps({"summary": dict(tally), "peak_kb": peak}))


def tell(paths: list[str]) -> None:
    """One line for each file."""
    for path in paths:
        found, memory = run(Path(path).read_bytes(), describe)
        about = json.loads(found) if found.startswith("{") else {"outcome": found}
        print(json.dumps({"file": path, **about, "memory": memory}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "describe":
        tell(sys.argv[2:])
    else:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
