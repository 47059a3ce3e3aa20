"""Decodes a made-up folder of JPEGs, beside Pillow alone, and starts from the decoded images.

python -m benchmarks.decoding DIR [--images=200000] [--size=160] [--resolution=128] [--json=FILE]

DIR is written first, unless it is there; the decoded images go to $XDG_CACHE_HOME (200,000 at 128 pixels: 9.8 GB).
Processor seconds say what an image costs whatever else the machine does; seconds on the clock hold for an idle one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.ours import machine, print_setting, write_json

_CLASSES = 100
# As many different images are encoded; the others are copies, because encoding would take longer than decoding.
_DIFFERENT = 1000
_BY_PILLOW = 5000

_START = """
import json, sys, time
started = time.perf_counter()
import ofav2_jax as ofa
from ofav2_jax.data.dataset import fingerprint
imported = time.perf_counter()
cpu = time.process_time()
dataset = ofa.load_dataset("folder", data_dir=sys.argv[1], base_resolution=int(sys.argv[2]))
digest = fingerprint(dataset)["pixels_sha256"]
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({
    "import_s": imported - started,
    "load_s": time.perf_counter() - imported,
    "processor_s": time.process_time() - cpu,
    "anonymous_mb": int(status["RssAnon"].split()[0]) / 1e3,
    "peak_mb": int(status["VmHWM"].split()[0]) / 1e3,
    "images": len(dataset.images),
    "pixels_sha256": digest,
}))
"""


def write_images(folder: Path, number: int, size: int) -> None:
    """Writes a folder of JPEGs, a tenth of them to test on: smooth noise, so that they compress as photographs do."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(_DIFFERENT):
        small = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8))
        file = folder.parent / "encoded.jpg"
        small.resize((size, size), Image.Resampling.BICUBIC).save(file, quality=90)
        contents.append(file.read_bytes())
        file.unlink()
    for place in range(number):
        parent = folder / ("test" if place % 10 == 9 else "train") / f"class{place // 10 % _CLASSES:03d}"
        parent.mkdir(parents=True, exist_ok=True)
        (parent / f"{place:08d}.jpg").write_bytes(contents[place % _DIFFERENT])


def pillow_processor_s(files: Iterator[Path], resolution: int) -> float:
    """Processor seconds of Pillow alone for an image: read, decode, resize, as an array."""
    started, number = time.process_time(), 0
    for file, _ in zip(files, range(_BY_PILLOW)):
        with Image.open(file) as image:
            np.asarray(ImageOps.fit(image.convert("RGB"), (resolution, resolution), Image.Resampling.BILINEAR))
        number += 1
    return (time.process_time() - started) / number


def start(folder: Path, resolution: int) -> dict[str, float]:
    """Loads the folder in a process of its own; returns what it measured."""
    done = subprocess.run(
        [sys.executable, "-c", _START, str(folder), str(resolution)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Prints the figures, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    if not args.folder.exists():
        write_images(args.folder, args.images, args.size)
    pillow_s = pillow_processor_s((args.folder / "train").rglob("*.jpg"), args.resolution)
    decoding, again = (start(args.folder, args.resolution) for _ in range(2))
    results = {
        "machine": machine(),
        "setting": {**vars(args), "folder": str(args.folder), "cores": os.cpu_count()},
        "pillow_processor_ms": 1000 * pillow_s,
        "our_processor_ms": 1000 * decoding["processor_s"] / decoding["images"],
        "decoding": decoding,
        "start": again,
    }
    print_setting(results)
    print(
        f"\nprocessor ms an image   Pillow {results['pillow_processor_ms']:.3f}, ours {results['our_processor_ms']:.3f}"
    )
    for name, row in (("decoding", decoding), ("start", again)):
        print(
            f"{name:<10}{row['load_s']:>8.1f} s   {row['processor_s']:>8.1f} s of processors   "
            f"{row['anonymous_mb']:>7.0f} MB of its own, {row['peak_mb']:.0f} MB at most"
        )
    write_json(args.json, results)


if __name__ == "__main__":
    main()
