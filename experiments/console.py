"""Prints a run: its plan before it starts, its progress, and its results at the end."""

import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ofav2_jax import files
from ofav2_jax.data.array_checks import listed
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.data.from_cache import PlannedDataset
from ofav2_jax.evaluate.protocol import visited
from ofav2_jax.model.cost import count, num_parameters
from ofav2_jax.model.design import Design
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.report.page import write_report
from ofav2_jax.report.paper import COLUMNS
from ofav2_jax.report.records import EpochRecord
from ofav2_jax.run.reporter import StepProgress
from ofav2_jax.runtime.feed import must_stream
from ofav2_jax.settings.phases import Phase, paper_phases, unlocked_values
from ofav2_jax.settings.settings import Settings

from .parser import complain


def print_plan(settings: Settings, dataset: Dataset, workdir: Path, devices: Sequence[jax.Device]) -> None:
    """Prints network, data, devices and the phases with their lengths, before the run starts."""
    net = SuperNet(settings.network, settings.width_multiplier, dataset.num_classes)
    sizes = {name: len(indices) for name, indices in dataset.splits.items()}
    per_epoch = sizes["train"] // settings.batch_size
    largest = count(net, SearchSpace(net).maximal(), max(settings.resolutions))
    print(f"network      {settings.network}, width multiplier {settings.width_multiplier}, {net.num_classes} classes")
    print(f"parameters   {num_parameters(net):,} (maximal subnet: {largest.params:,}, {largest.macs / 1e6:.1f} M MACs)")
    if settings.design is not None:
        design = Design.parse(settings.design)
        cost = count(net, design.subnet, design.resolution, exits=design.exits)
        print(f"design       {design} ({cost.params:,} parameters, {cost.macs / 1e6:.2f} M MACs), all that is trained")
    for line in data_lines(dataset):
        print(line)
    if must_stream(dataset, devices):
        print("             images stay on the host and are sent batch by batch")
    print(f"resolutions  {', '.join(map(str, settings.resolutions))}")
    sampled = "" if settings.sampling == "random" else f"; subnets by the {settings.sampling} rule"
    print(
        f"engine       {settings.engine}; teacher {settings.teacher}; seed {settings.seed}; {settings.dtype}{sampled}"
    )
    print(f"devices      {len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    print(f"directory    {workdir}")
    left_out = sizes["train"] - per_epoch * settings.batch_size
    print(f"batch        {settings.batch_size} images, {per_epoch} steps an epoch", end="")
    print(f" ({left_out} images, others each time, sit out an epoch)" if left_out else "")
    print(f"\n{'phase':<12}{'epochs':>8}{'steps':>9}{'rate':>10}{'subnets':>9}{'tested':>8}")
    for index, phase in enumerate(settings.phases):
        epochs = f"{phase.epochs}+{phase.warmup_epochs}" if phase.warmup_epochs else str(phase.epochs)
        unlocked = SearchSpace(net).restrict(**unlocked_values(settings.phases, index))
        some, resolutions = visited(settings, index, unlocked)
        num_tested = (some.num_uniform if phase.num_subnets else 1) * len(resolutions)
        trained = phase.num_subnets or ("full" if phase.is_full else "design")
        print(
            f"{phase.name:<12}{epochs:>8}{phase.total_epochs * per_epoch:>9,}{phase.learning_rate:>10.2g}"
            f"{trained:>9}{num_tested:>8,}"
        )
    kept = {phase.name for phase in settings.phases}
    missing = [phase.name for phase in paper_phases(settings.network) if phase.name not in kept]
    if missing and settings.design is None:
        print(f"left out     {', '.join(missing)}")
    print(flush=True)


def data_lines(dataset: Dataset) -> list[str]:
    """What the plan says about the data: sizes of splits, smallest and largest class, pixels, how they were read."""
    sizes = {name: len(indices) for name, indices in dataset.splits.items()}
    counts, names = dataset.class_counts("train"), dataset.class_names
    assert names is not None
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    lines = [f"data         {dataset.name}: {', '.join(f'{size:,} {name}' for name, size in sizes.items())} images"]
    if counts[smallest] == counts[largest]:
        lines.append(f"classes      {listed(names)}; {counts[smallest]:,} training images each")
    else:
        lines.append(
            f"classes      {listed(names)}; training images: {counts[smallest]:,} of {names[smallest]} (fewest) to "
            f"{counts[largest]:,} of {names[largest]} (most)"
        )
    untested = dataset.classes_without("test")
    if untested:
        lines.append(f"             no test images of class {listed(untested)}")
    mean, std = (", ".join(f"{value:g}" for value in values) for values in dataset.normalisation)
    known = "" if isinstance(dataset, PlannedDataset) else f", mean {mean}, standard deviation {std}"
    lines.append(f"pixels       {'x'.join(map(str, dataset.images.shape[1:3]))}{known}")
    return [*lines, *(f"             {note}" for note in dataset.notes)]


def print_results(settings: Settings, results: dict[str, Any], workdir: Path) -> None:
    """Prints the results of a finished run, a supernet's as a row of Tables IV and V, and the paths of its files."""
    (_print_accuracies if settings.design is None else _print_tuned)(settings, results)
    seconds = results["seconds"]
    print(f"\nseconds      {', '.join(f'{kind} {value}' for kind, value in seconds.items())}")
    print(f"programs     {results['compiled_programs']}")
    print(f"parameters   sha256 {results['params_sha256']}")
    print(f"results      {workdir / files.RESULTS}, {workdir / files.REPORT}")


def _print_accuracies(settings: Settings, results: dict[str, Any]) -> None:
    print(f"\n{'phase':<12}{'subnets':>8}{'avg top-1':>11}{'best top-1':>12}")
    for phase in results["phases"]:
        print(f"{phase['name']:<12}{len(phase['subnets']):>8,}{phase['avg']:>11.2f}{phase['best']:>12.2f}")
    columns = {}
    for phase, result in zip(settings.phases, results["phases"]):
        columns[COLUMNS[phase.unlocks]] = f"{result['avg']:.2f} / {result['best']:.2f}"
    print(f"\ntop-1 in %, avg / best\n{'network':<12}{'teacher':<14}" + "".join(f"{name:>16}" for name in columns))
    print(f"{settings.network:<12}{settings.teacher:<14}" + "".join(f"{cell:>16}" for cell in columns.values()))


def _print_tuned(settings: Settings, results: dict[str, Any]) -> None:
    (result,) = results["phases"]
    print(f"\ntop-1 in % of {result['design']}\n{'':<12}{'before':>8}{'after':>8}{'images':>8}")
    for split, top1 in result["top1"].items():
        print(f"{split:<12}{top1['before']:>8.2f}{top1['after']:>8.2f}{top1['images']:>8,}")
    epoch = result["best_epoch"]
    print(f"\nkept         {f'epoch {epoch}' if epoch else 'the start, as no epoch is better'}")


def rebuild_report(workdir: Path) -> None:
    """Rewrites the run's page, and only reports errors: a picture that cannot be drawn must not end a run of days."""
    try:
        write_report(workdir)
    except (ValueError, OSError) as error:
        # A file in the directory, a search's for instance, cannot be read, or the page not be written.
        with contextlib.suppress(OSError):
            complain(f"{workdir / files.REPORT} was not written: {error}", "warning")
    except Exception:
        logging.exception("the report of %s could not be written", workdir)


class DecodingProgress:
    """Says on stderr how far the decoding of images is: a line that is rewritten on a terminal, else two a minute."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started: tuple[float, int] | None = None
        self._said_at = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """See `decoding.decode_all`."""
        now = time.monotonic()
        if self._started is None:
            self._started = now, done
        if now - self._said_at < (0.5 if self._terminal else 30) and done < total:
            return
        self._said_at = now
        rate = max(done - self._started[1], 1) / max(now - self._started[0], 1e-3)
        line = f"decoding {done:,} of {total:,} images, {rate:,.0f}/s, {duration((total - done) / rate)} left"
        if self._terminal:
            end = "\r\x1b[K" if done == total else ""
            print(f"\r\x1b[K{line}{end}", end="", file=sys.stderr, flush=True)
        elif done < total:
            print(line, file=sys.stderr, flush=True)


# Drawing takes seconds. In a small run a phase is as short as that, and drawing after each would double its time.
_REPORT_EVERY_S = 60
# Goes back to the start of a terminal's line and clears it.
REWRITE = "\r\x1b[K"


class Console:
    """Prints progress: a line that is rewritten on a terminal, else a line for each record.

    Args:
        workdir: the run's directory, whose report is rewritten after a phase, but not every few seconds.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._reported_at = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._drawn_at = 0.0
        self._remaining = ""

    def _print(self, text: str, end: str = "\n") -> None:
        # A terminal that is closed, or a pipe that nobody reads any more, must not end the run.
        with contextlib.suppress(OSError):
            print(f"{REWRITE if self._terminal else ''}{text}", end=end, flush=True)

    def phase_started(self, index: int, phase: Phase) -> None:
        """See `reporter.Reporter`."""

    def stepped(self, progress: StepProgress) -> None:
        """See `reporter.Reporter`."""
        self._remaining = duration(progress.remaining_s)
        if self._terminal and time.monotonic() - self._drawn_at > 0.2:
            self._drawn_at = time.monotonic()
            self._print(
                f"{progress.phase_name} ({progress.phase + 1}/{progress.num_phases})  "
                f"epoch {progress.epoch + 1}/{progress.num_epochs}  {progress.images_per_s:,.0f} images/s  "
                f"loss {progress.loss:.3f}  rate {progress.learning_rate:.2g}  {self._remaining} left",
                end="",
            )

    def epoch_ended(self, record: EpochRecord) -> None:
        """See `reporter.Reporter`."""
        self._print(
            f"{record.phase:<10} epoch {record.epoch:>3}  loss {record.loss:.3f}  "
            f"top-1 {record.train_top1:5.1f}  validation {record.validation_top1:5.1f}  "
            f"rate {record.learning_rate:.2g}  {record.images_per_s:,.0f} images/s  "
            f"{'' if record.images_waited is None else f'waiting for images {record.images_waited:.0f} %  '}"
            f"{self._remaining} left"
        )

    def phase_ended(self, index: int, result: dict[str, Any]) -> None:
        """See `reporter.Reporter`."""
        self._print(
            f"{result['name']:<10} tested {len(result['subnets'])} subnets: "
            f"avg {result['avg']:.2f}  best {result['best']:.2f}"
        )
        if time.monotonic() - self._reported_at > _REPORT_EVERY_S:
            rebuild_report(self._workdir)
            self._reported_at = time.monotonic()


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
