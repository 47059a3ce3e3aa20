"""Every figure of a GPU in one call: steps beside PyTorch and beside the compiler's estimates, testing, a whole run.

python -m benchmarks.gpu [--batch_size=200] [--resolutions=64,56,48] [--card=h100] [--json=FILE]

Each program is compiled in a process of its own, four at a time: XLA tunes products on the GPU, and more of them would
disturb each other. Then one after another is timed alone, and nothing compiles meanwhile. Steps are those of an epoch
of made-up images, as a run takes them: several in a dispatch, the next batches prepared meanwhile. Activations are
bfloat16. *Kernels* is the sum of their times in a profile of such an epoch. The whole Extended Progressive Shrinking of
EE_D (Table III on 85,000 images) is projected from its steps, as if each of the resolutions that were measured were
drawn equally often. Fourteen programs take ten minutes to compile; `--resolutions=64` leaves six.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from benchmarks import pytorch
from benchmarks.apart import Apart
from benchmarks.ours import Ours, machine, write_json
from benchmarks.train_step import NUM_SUBNETS
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.recipe import Evaluation

TRAIN_IMAGES = 85_000
_AT_A_TIME = 4
_EPOCHS = 3
_TORCH_STEPS = 10


def main() -> None:
    """Prints the tables, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--resolutions", default="64,56,48", help="the first for all figures, all for a whole run")
    parser.add_argument("--card", choices=["h100", "h200"], default="h100", help="whose data sheet estimates go by")
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    args = parser.parse_args()
    first, *others = (int(text) for text in args.resolutions.split(","))

    results: dict[str, Any] = {"setting": vars(args)}
    makes = {f"ee_d {phase} {first}": (Epochs, "ee_d", phase, first, args) for phase in NUM_SUBNETS}
    makes |= {f"ofa_mbv3 {phase} {first}": (Epochs, "ofa_mbv3", phase, first, args) for phase in ("full", "width2")}
    makes |= {
        f"ee_d {phase} {other}": (Epochs, "ee_d", phase, other, args) for other in others for phase in NUM_SUBNETS
    }
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        # What matters most first: measured as soon as all is compiled, in the same order.
        steps = {name: pool.submit(Apart, *make) for name, make in makes.items()}
        test = pool.submit(Apart, Testing, args.batch_size, first)
        torch = pool.submit(pytorch.beside, "gpu", args.batch_size, first)
    results["machine"] = machine()
    # Each part is written at once: a call that is cut short has not been for nothing.
    results["steps"] = measure(steps)
    write_json(args.json, results)
    once, results["torch"] = torch.result()
    print("PyTorch:", results["torch"])
    if once:
        results["pytorch_ms"] = beside_pytorch(once)
        write_json(args.json, results)
    results["testing"] = test.result()("seconds_per_subnet")
    print(f"a test of one of 405 subnets on 10,000 images: {results['testing']:.4f} s")
    results["minutes_of_training"] = project(results["steps"], args.batch_size)
    print(f"steps of the whole of EE_D: {results['minutes_of_training']:.1f} min")
    write_json(args.json, results)


class Epochs:
    """Epochs of one phase, and what its program costs.

    Args:
        network: of Table II.
        phase: a key of `NUM_SUBNETS`.
        resolution: of the images.
        args: of this program.
    """

    def __init__(self, network: str, phase: str, resolution: int, args: argparse.Namespace):
        self._phase, self._card = phase, args.card
        self._ours = Ours(network, args.batch_size, resolution, "bfloat16")
        self._num_steps = self._ours.epoch(phase)

    def compile_seconds(self) -> float:
        """Spent on tracing and compiling."""
        return self._ours.compile_seconds()

    def peak_mib(self) -> float:
        """The most memory that was held on the device."""
        return self._ours.peak_mib()

    def step_ms(self) -> list[float]:
        """Milliseconds of a step, on average over an epoch, for each of some epochs."""
        values = []
        for _ in range(_EPOCHS):
            started = time.perf_counter()
            self._ours.epoch(self._phase)
            values.append(1e3 * (time.perf_counter() - started) / self._num_steps)
        return values

    def estimates(self) -> dict[str, float]:
        """What `benchmarks.aot` says of the program that ran, for the card's data sheet."""
        from benchmarks.aot.__main__ import analysis
        from benchmarks.aot.targets import TARGETS

        text = self._ours.parts.programs.compiled()[-1].as_text()
        results = analysis(text, TARGETS[self._card], 0, NUM_SUBNETS[self._phase] > 0)
        return {name: results[name] for name in ("bound_ms", "bytes_ms", "launches_ms", "bytes", "launches")}

    def kernels(self) -> dict[str, tuple[float, float]]:
        """For each kernel, its milliseconds in a step and how often it runs in one."""
        totals = device_time(lambda: self._ours.epoch(self._phase))
        return {name: (ms / self._num_steps, count / self._num_steps) for name, (ms, count) in totals.items()}


def device_time(run: Callable[[], Any]) -> dict[str, tuple[float, int]]:
    """Profiles a function; returns for each kernel its milliseconds on the device and how often it ran."""
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level = options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, profiler_options=options):
            run()
        (file,) = Path(directory).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    totals: dict[str, tuple[float, int]] = {}
    for plane in profile.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                # Not the HLO operation: for the kernels of a CUDA graph that is the graph.
                ms, count = totals.get(event.name, (0.0, 0))
                totals[event.name] = ms + event.duration_ns / 1e6, count + 1
    return totals


class Testing:
    """The recalibration and test of EE_D's subnets with 10,000 images."""

    def __init__(self, batch_size: int, resolution: int):
        ours = Ours("ee_d", batch_size, resolution, "bfloat16", evaluation=Evaluation(batch_size=1000))
        subnets = list(ours.spaces["width2"].uniform_subnets())[:40]
        self._num_subnets = len(subnets)
        self._score = lambda: ours.parts.evaluator.score(ours.teacher, subnets, resolution, "test")
        self._score()

    def seconds_per_subnet(self) -> float:
        """Of which a test takes so many."""
        started = time.perf_counter()
        self._score()
        return (time.perf_counter() - started) / self._num_subnets


def measure(candidates: dict[str, Future[Apart]]) -> dict[str, dict[str, Any]]:
    """Times them, one after another, and prints a line for each."""
    print(
        f"{'':<24}{'ms/step':>9}{'min':>8}{'max':>8}{'kernels':>9}{'bound':>8}{'bytes':>8}{'launches':>10}"
        f"{'compile':>9}{'peak MiB':>10}"
    )
    rows = {}
    for name, future in candidates.items():
        try:
            rows[name] = row = _row(future.result())
        except Exception as error:  # of any kind: the others are measured all the same
            rows[name] = {"error": repr(error)}
            print(f"{name:<24}{error!r:.300}", flush=True)
            continue
        print(
            f"{name:<24}{row['ms']:>9.3f}{min(row['all_ms']):>8.3f}{max(row['all_ms']):>8.3f}{row['kernels_ms']:>9.3f}"
            f"{row['bound_ms']:>8.2f}{row['bytes_ms']:>8.2f}{row['launches']:>10,}{row['compile_s']:>9.1f}"
            f"{row['peak_mib']:>10,.0f}",
            flush=True,
        )
    return rows


def _row(epochs: Apart) -> dict[str, Any]:
    values = epochs("step_ms")
    row = {"ms": statistics.median(values), "all_ms": values, "compile_s": epochs("compile_seconds")}
    row |= {"peak_mib": epochs("peak_mib"), "kernels": epochs("kernels"), **epochs("estimates")}
    row["kernels_ms"] = sum(ms for ms, _ in row["kernels"].values())
    return row


def beside_pytorch(once: Apart) -> dict[str, float]:
    """Milliseconds of the same step of the baseline network in the package `ofa`."""
    results = {}
    for bfloat16 in (True, False):
        for phase in ("full", "kernel", "width2"):
            times = [
                once.seconds("step", phase, NUM_SUBNETS[phase], step, bfloat16) for step in range(3 + _TORCH_STEPS)
            ]
            name = f"{phase} {'bfloat16' if bfloat16 else 'float32'}"
            results[name] = 1e3 * statistics.median(times[3:])
            print(f"PyTorch, {name}: {results[name]:.2f} ms", flush=True)
    return results


def project(steps: dict[str, dict[str, Any]], batch_size: int) -> float:
    """Minutes of the steps of all of EE_D's phases."""
    total_ms = 0.0
    names = {num_subnets: phase for phase, num_subnets in NUM_SUBNETS.items()}
    for phase in paper_phases("ee_d"):
        kind = f"ee_d {names[phase.num_subnets]} "
        values = [row["ms"] for name, row in steps.items() if name.startswith(kind) and "ms" in row]
        total_ms += phase.total_epochs * (TRAIN_IMAGES // batch_size) * statistics.mean(values)
    return total_ms / 60e3


if __name__ == "__main__":
    main()
