"""From a trained supernet to networks on a device: what every step does to the test top-1.

python -m benchmarks.chain --run=RUN --out=DIR --constraint='macs<=5M' [--constraint=...] [--data_dir=DIR]
    [--archive=FILE] [--budget=200] [--images=5000] [--epochs=30] [--json=FILE]

For each constraint: the search's winner, taken out, fine-tuned, exported, and run by onnxruntime on every test image
(uint8 images, normalised inside of the file). All winners are chosen by validation images. The search is kept in
RUN/search/chain, everything else in DIR; the same command goes on where it was stopped. Latency is that of one image in
one thread: of some rounds, in which the files take turns, the median.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ofav2_jax as ofa
from benchmarks.ours import machine, print_setting, write_json
from ofav2_jax.deploy.verify import run_onnx, verify
from ofav2_jax.latency.measure import timer
from ofav2_jax.nas.result import FoundLine
from ofav2_jax.run.cascade import prepared
from ofav2_jax.runtime import cpu

_ROUNDS = 21
_COLUMNS = (
    ("uniform", "best uniform subnet"),
    ("found", "found"),
    ("extracted", "extracted"),
    ("tuned", "fine-tuned"),
    ("exported", "in onnxruntime"),
)


def main() -> None:
    """Prints the table as Markdown, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--constraint", action="append", required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--archive")
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    run = ofa.open_run(args.run, data_dir=args.data_dir, archive=args.archive)
    results: dict[str, Any] = {"machine": machine(), "setting": {k: str(v) for k, v in vars(args).items()}, "rows": []}
    print_setting(results)
    started = time.monotonic()
    found = ofa.search(run, name="chain", constraints=args.constraint, budget=args.budget, images=args.images)
    seconds = {"search": time.monotonic() - started}
    args.out.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(line for line in found.lines if line.constraint is not None):
        results["rows"].append(_row(run, line, args.out / f"{number}", args, seconds))
    for row, ms in zip(results["rows"], _latencies([row["file"] for row in results["rows"]])):
        row["ms"] = ms
    results["seconds"] = seconds
    _print(results["rows"], seconds)
    write_json(args.json, results)


def _row(run: Any, line: FoundLine, start: Path, args: argparse.Namespace, seconds: dict[str, float]) -> dict[str, Any]:
    """Takes one winner through all steps; `seconds` gets what they took."""

    def timed(name: str, step: Any) -> Any:
        began = time.monotonic()
        result = step()
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
        return result

    design = line.found.design
    alone = timed("extract", lambda: ofa.extract(run, design))
    workdir = start.with_name(f"{start.name}-tuned")
    timed("finetune", lambda: ofa.finetune(run, design, workdir, epochs=args.epochs).execute())
    tuned_run = ofa.open_run(workdir, dataset=run.dataset)
    tuned = timed("extract", lambda: ofa.extract(tuned_run, design))
    file = start.with_suffix(".onnx")
    timed("export", lambda: ofa.to_onnx(tuned, file))
    error = timed("verify", lambda: verify(file, tuned, "uint8"))
    labels = run.dataset.labels[run.dataset.splits["test"]]
    network = run_onnx(file)
    right = [network(pixels).argmax(-1) for pixels in prepared(tuned_run, tuned, "test", "uint8")]
    return {
        "constraint": str(line.constraint),
        "design": str(design),
        "macs": alone.macs,
        "params": alone.params,
        "validation": {"found": line.found.validation.top1, "tuned": tuned.about["accuracy"]["validation"]["top1"]},
        "test": {
            "uniform": None if line.uniform is None else line.uniform.test.top1,
            "found": line.found.test.top1,
            "extracted": alone.about["accuracy"]["test"]["top1"],
            "tuned": tuned.about["accuracy"]["test"]["top1"],
            "exported": 100 * float((np.concatenate(right) == labels).mean()),
        },
        "images": len(labels),
        "relative_error": error,
        "file": str(file),
        "bytes": file.stat().st_size,
    }


def _latencies(files: Sequence[str]) -> list[float]:
    """Milliseconds for one image in one thread, the files in turns."""
    visits = [timer(file, 1, 1) for file in files]
    rounds = [[visit() for visit in visits] for _ in range(_ROUNDS)]
    return [statistics.median(times) / 1e3 for times in zip(*rounds)]


def _print(rows: Sequence[dict[str, Any]], seconds: dict[str, float]) -> None:
    heads = ["limit", "design", "M MACs", "k params", *(title for _, title in _COLUMNS), "kB", "ms an image", "error"]
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        accuracies = ["" if row["test"][name] is None else f"{row['test'][name]:.2f}" for name, _ in _COLUMNS]
        cells = [
            row["constraint"],
            row["design"],
            f"{row['macs'] / 1e6:.2f}",
            f"{row['params'] / 1e3:,.0f}",
            *accuracies,
        ]
        cells += [f"{row['bytes'] / 1e3:,.0f}", f"{row['ms']:.2f}", f"{row['relative_error']:.1e}"]
        print("| " + " | ".join(cells) + " |")
    print("\nseconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))


if __name__ == "__main__":
    cpu.prepare()
    main()
