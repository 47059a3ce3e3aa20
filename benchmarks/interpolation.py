"""Whether a resolution is tested on sharper images than it was trained on, and what that costs.

python -m benchmarks.interpolation --run=RUN [--phase=full] [--around=4] [--data_dir=DIR] [--archive=FILE] [--json=FILE]

A test image is resized to ceil(R / 0.875) pixels, and its centre of R pixels is cut out. Where that size is the image's
own nothing is interpolated, while every training crop is. Here the largest network, the mean of its exits, sees the
validation and test images resized to other sizes, too (the zoom differs by a pixel or so), and at the protocol's size
moved by half a pixel, which interpolates between neighbours and zooms nothing. Differences are from the protocol's
top-1, with their standard error over the same images.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ofav2_jax as ofa
from benchmarks.ours import machine, print_setting, write_json
from ofav2_jax.data.augment import resize_weights, resized_size
from ofav2_jax.runtime import cpu

_BATCH_SIZE = 250


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--phase")
    parser.add_argument("--around", type=int, default=4, help="sizes that many pixels smaller and larger, too")
    parser.add_argument("--data_dir")
    parser.add_argument("--archive")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    run = ofa.open_run(args.run, data_dir=args.data_dir, archive=args.archive)
    results: dict[str, Any] = {"machine": machine(), "setting": vars(args), "rows": []}
    print_setting(results)
    print(f"\n{'resolution':<12}{'resized to':>10}{'moved':>7}{'top-1':>8}{'difference':>12}{'error':>7}")
    for resolution in run.settings.resolutions:
        for row in _rows(run, resolution, args):
            results["rows"].append(row)
            size = f"{row['size']}{' *' if row['size'] == resized_size(resolution) else '  '}"
            change = "" if row["error"] is None else f"{row['difference']:>+12.2f}{row['error']:>7.2f}"
            print(f"{resolution:<12}{size:>10}{row['moved']:>7}{row['top1']:>8.2f}{change}", flush=True)
    print(f"* the protocol's size; images have {run.dataset.images.shape[1]} pixels")
    write_json(args.json, results)


def _rows(run: Any, resolution: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    maximal = run.space.maximal()
    exits = range(1, maximal.height + 1) if run.net.spec.early_exits else [maximal.height]
    alone = ofa.extract(run, ofa.Design(maximal, resolution, tuple(exits)), phase=args.phase)
    dataset = run.dataset
    indices = np.concatenate([dataset.splits[name] for name in ("validation", "test")])

    def right(size: int, moved: float) -> np.ndarray:
        images_of = jax.jit(lambda images: alone.normalisation(_crops(images, resolution, size, moved)))
        batches = (indices[first : first + _BATCH_SIZE] for first in range(0, len(indices), _BATCH_SIZE))
        found = [
            np.asarray(alone.apply(images_of(jnp.asarray(dataset.images[batch])))).argmax(-1) == dataset.labels[batch]
            for batch in batches
        ]
        return np.concatenate(found)

    own = resized_size(resolution)
    protocol = right(own, 0.0)
    for size in range(max(resolution, own - args.around), own + args.around + 1):
        for moved in (0.0, 0.5) if size == own else (0.0,):
            is_protocol = size == own and not moved
            found = protocol if is_protocol else right(size, moved)
            change = found.astype(float) - protocol
            yield {
                "resolution": resolution,
                "size": size,
                "moved": moved,
                "top1": 100 * float(found.mean()),
                "difference": 100 * float(change.mean()),
                "error": None if is_protocol else 100 * float(change.std() / np.sqrt(len(change))),
                "images": len(indices),
            }


def _crops(images: jax.Array, resolution: int, size: int, moved: float) -> jax.Array:
    """The centre of images that were resized, `moved` by so many pixels of the resized image to the right and down."""
    matrices = []
    for pixels in images.shape[1:3]:
        first = round((size - resolution) / 2)
        # The same as resizing all of the image, and then cutting out.
        scale = pixels / size
        whole = resize_weights(pixels, moved * scale, pixels, size)
        matrices.append(whole[first : first + resolution])
    return jnp.einsum("oh,bhwc,pw->bopc", matrices[0], images.astype(jnp.float32), matrices[1])


if __name__ == "__main__":
    cpu.prepare()
    main()
