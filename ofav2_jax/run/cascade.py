"""Cascades of a network that was taken out of a run: thresholds on its validation images, files for other runtimes."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.checks import is_number, plain, refuse, require_among, shown
from ofav2_jax.data.augment import centre_crops
from ofav2_jax.deploy.cascade import Cascade, simulate, thresholds
from ofav2_jax.deploy.cascade_files import verify_cascades, write_runner
from ofav2_jax.deploy.onnx_file import INPUTS, shared_header
from ofav2_jax.deploy.segments import Segment, cut, segment_file, to_onnx_segments
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.nas.costs import Constraint
from ofav2_jax.run import checkpoint
from ofav2_jax.run.opened import OpenedRun

FORMAT = "ofav2_jax.cascade/1"
_SPLITS = ("validation", "test")
COSTS = ("macs", "latency")


def parse_constraints(texts: Sequence[str]) -> list[Constraint]:
    """Reads texts like `macs<=2M` or `latency<=1.5ms`, limits of the mean cost of an image.

    Raises:
        ValueError: for a text that is not one, the same constraint twice, and no text.
    """
    constraints = [Constraint.parse(text) for text in texts]
    for each in constraints:
        if each.cost not in COSTS:
            refuse("constraint", str(each), f"one of {' or '.join(COSTS)}, which depend on where an image leaves")
    if not constraints or len(set(constraints)) < len(constraints):
        refuse("constraint", [str(each) for each in constraints], "at least one, and each once")
    return constraints


@dataclasses.dataclass(frozen=True, eq=False)
class Cascades:
    """The cascades of one network; `make_cascades` makes them.

    Attributes:
        run: the run.
        alone: the network.
        input: what the first segment reads, "uint8" or "float".
        segments: the parts of the network.
        costs: by kind, "macs" and perhaps "latency", the costs of an image that leaves at each exit.
        cascades: by the text of their constraints.
        logits: of each exit by split, float [exits, N, classes].
    """

    run: OpenedRun
    alone: Standalone
    input: str
    segments: Sequence[Segment]
    costs: Mapping[str, Sequence[float]]
    cascades: Mapping[str, Cascade]
    logits: Mapping[str, np.ndarray]

    def record(self) -> dict[str, Any]:
        """What `cascade.json` holds: the network, its segments, and what exits do alone, together and as cascades."""
        exits = list(self.alone.outputs)
        alone = [([part.exit], part.single_macs, self._top1(part.exit)) for part in self.segments]
        return {
            "format": FORMAT,
            **shared_header(self.alone, self.input),
            "segments": [
                {
                    "file": segment_file(place),
                    "exit": exit,
                    **{kind: costs[place] for kind, costs in self.costs.items()},
                }
                for place, exit in enumerate(exits)
            ],
            "static": [
                {"exits": exits, "macs": macs, **top1}
                for exits, macs, top1 in [*alone, (exits, self.alone.macs, self._top1(*exits))]
            ],
            "cascades": [self._outcome(text) for text in self.cascades],
        }

    def _top1(self, *exits: int) -> dict[str, Any]:
        places = [list(self.alone.outputs).index(exit) for exit in exits]
        found = {}
        for split in _SPLITS:
            labels = _labels(self.run, split)
            right = self.logits[split][places].mean(0).argmax(-1) == labels
            found[split] = {"top1": float(100 * right.sum() / len(labels)), "images": len(labels)}
        return found

    def _outcome(self, text: str) -> dict[str, Any]:
        cascade = self.cascades[text]
        of_kinds = {kind: dataclasses.replace(cascade, costs=tuple(costs)) for kind, costs in self.costs.items()}
        found = {}
        for split in _SPLITS:
            outcomes = {
                kind: each.score(self.logits[split], _labels(self.run, split)) for kind, each in of_kinds.items()
            }
            found[split] = {
                "top1": outcomes["macs"].top1,
                "images": outcomes["macs"].images,
                "shares": list(outcomes["macs"].shares),
                "mean": {kind: outcome.mean_cost for kind, outcome in outcomes.items()},
            }
        worst = {kind: each.worst_cost for kind, each in of_kinds.items()}
        return {"constraint": text, "thresholds": list(cascade.thresholds), "worst": worst, **found}

    def write(self, directory: Path) -> None:
        """Writes the segments, `cascade.json` and `run.py`.

        Args:
            directory: where to.

        Raises:
            ImportError: without the extra `export`.
            OSError: if a file cannot be written.
        """
        to_onnx_segments(self.alone, directory, self.input)
        write_runner(directory, self.record())

    def verify(self, directory: Path) -> float:
        """Runs what `write` wrote on the validation images.

        Returns:
            The largest difference between logits, divided by the largest logit.

        Raises:
            ValueError: if the files compute something else than the network, or an image leaves at another exit.
            ImportError: without the extra `export`.
        """
        logits, exits = self.logits["validation"], np.array(list(self.alone.outputs))
        left = {text: exits[simulate(logits, cascade.thresholds)] for text, cascade in self.cascades.items()}
        return verify_cascades(directory, prepared(self.run, self.alone, "validation", self.input), logits, left)


def make_cascades(
    run: OpenedRun,
    alone: Standalone,
    constraints: Sequence[Constraint],
    segment_ms: Sequence[float] | None = None,
    input: str = "uint8",
) -> Cascades:
    """Chooses thresholds on a run's validation images, and tests them on its test images.

    Args:
        run: the run.
        alone: a network with several exits that `extract` took out of it.
        constraints: see `parse_constraints`; a cascade for each.
        segment_ms: the time that each segment takes, milliseconds, for limits of the latency.
        input: "uint8", images that were resized, cropped and rounded, as an exported network gets them; "float", images
            as in the run's tests, which are not rounded.

    Raises:
        ValueError: naming what is not allowed, before any image is classified.
    """
    require_among("input", input, INPUTS)
    segments = cut(alone)
    costs: dict[str, Sequence[float]] = {"macs": [part.macs for part in segments]}
    if segment_ms is not None:
        costs["latency"] = _cumulative(segment_ms, len(segments))
    _require_possible(constraints, costs)
    require_taken_from(run, alone)
    logits = {"validation": _logits(run, alone, "validation", input)}
    labels = _labels(run, "validation")
    cascades = {
        str(each): thresholds(logits["validation"], labels, costs[each.cost], each.limit) for each in constraints
    }
    logits["test"] = _logits(run, alone, "test", input)
    return Cascades(run, alone, input, segments, costs, cascades, logits)


def _cumulative(segment_ms: Sequence[float], number: int) -> list[float]:
    given = plain(tuple(segment_ms))
    if len(given) != number or not all(is_number(ms) and ms > 0 for ms in given):
        refuse("latency", given, f"{number} positive numbers, the milliseconds of each segment")
    return np.cumsum(given).tolist()


def _require_possible(constraints: Sequence[Constraint], costs: Mapping[str, Sequence[float]]) -> None:
    for each in constraints:
        if each.cost not in costs:
            raise ValueError(f"constraint={str(each)!r} is not allowed without the latency of each segment")
        least = costs[each.cost][0]
        if each.limit < least:
            raise ValueError(
                f"constraint={str(each)!r} is not allowed: an image that leaves at the first exit costs {least:,}"
            )


def require_taken_from(run: OpenedRun, alone: Standalone) -> None:
    """Refuses a network that was not taken out of a run.

    Raises:
        ValueError: naming the run that it was taken out of.
    """
    source = alone.about.get("run")
    if not isinstance(source, Mapping) or not {"name", "phase", "params_sha256"} <= set(source):
        raise ValueError(f"network={str(alone.design)!r} is not allowed: it was not taken out of a run")
    names = [phase.name for phase in run.settings.phases]
    phase = source["phase"]
    if phase not in names or checkpoint.digest(run.params(phase)) != source["params_sha256"]:
        raise ValueError(
            f"network={str(alone.design)!r} is not allowed: it was taken out of another run than {run.directory}, "
            f"{shown(source['name'])}, whose parameters after phase {shown(phase)} are "
            f"{shown(source['params_sha256'])}"
        )


def _labels(run: OpenedRun, split: str) -> np.ndarray:
    return run.dataset.labels[run.dataset.splits[split]]


def prepared(run: OpenedRun, alone: Standalone, split: str, input: str) -> Iterator[np.ndarray]:
    """The images of a split as an exported network takes them, in batches: [b, R, R, 3]."""
    crops = jax.jit(functools.partial(centre_crops, resolution=alone.design.resolution, resized=alone.resized))
    for indices, counted in run.evaluator.batches(split):
        pixels = crops(np.asarray(run.dataset.images[indices.ravel()]))
        images = jnp.round(pixels).astype(jnp.uint8) if input == "uint8" else alone.normalisation(pixels)
        yield np.asarray(images)[counted.ravel()]


def _logits(run: OpenedRun, alone: Standalone, split: str, input: str) -> np.ndarray:
    """Logits of each exit, float32 [exits, N, classes]."""
    found, size = [], 0
    for images in prepared(run, alone, split, input):
        number, size = len(images), max(size, len(images))
        # The last batch is as large as the others, so that one program serves all.
        filled = np.concatenate([images, np.repeat(images[:1], size - number, axis=0)])
        normalised = alone.normalisation(jnp.asarray(filled)) if input == "uint8" else filled
        found.append(np.asarray(alone.apply_exits(normalised))[:, :number])
    return np.concatenate(found, axis=1)
