"""The directory of a cascade: what is in it besides the segments, and whether it does what was simulated."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import require_package
from ofav2_jax.deploy.verify import BATCH_SIZES, TOLERANCE

RECORD, RUNNER = "cascade.json", "run.py"


def write_runner(directory: Path, record: Mapping[str, Any]) -> None:
    """Writes `cascade.json` and `run.py`, a program without this package.

    Raises:
        OSError: if a file cannot be written.
    """
    files.write_json(directory / RECORD, record)
    files.write_bytes(directory / RUNNER, Path(__file__).with_name("run_cascade.py").read_bytes())


def verify_cascades(
    directory: Path, batches: Iterable[np.ndarray], logits: np.ndarray, left: Mapping[str, np.ndarray]
) -> float:
    """Runs the segments and the runner of a directory.

    Args:
        directory: the directory.
        batches: N images, as the first segment takes them.
        logits: of each exit, float [exits, N, classes].
        left: by the text of each constraint the exits at which the images leave, int [N].

    Returns:
        The largest difference between logits of an exit for the first images, divided by its largest logit.

    Raises:
        ValueError: if something does not run, logits differ by more than `TOLERANCE`, or an image leaves elsewhere.
        ImportError: if onnxruntime is not installed.
    """
    require_package("onnxruntime", "export")
    from ofav2_jax.deploy.run_cascade import Cascade

    with _running():
        cascades = {text: Cascade(text, directory) for text in left}
    largest, first = 0.0, 0
    for images in batches:
        numbers = slice(first, first + len(images))
        if first == 0:
            sessions = next(iter(cascades.values())).sessions
            largest = max(
                _difference(sessions, images[:size], logits[:, : len(images)][:, :size]) for size in BATCH_SIZES
            )
        for text, cascade in cascades.items():
            with _running():
                _, found = cascade.classify(images)
            if moved := np.count_nonzero(found != left[text][numbers]):
                raise ValueError(f"{RUNNER}: {moved} of {len(images)} images leave at another exit with {text}")
        first += len(images)
    return largest


@contextlib.contextmanager
def _running() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a runtime has classes of its own, without a common base
        raise ValueError(f"{RUNNER} does not run: {' '.join(str(error).split())}") from error


def _difference(sessions: Sequence[Any], x: np.ndarray, expected: np.ndarray) -> float:
    """How far the logits of segments are off those expected, [exits, N, classes], if that is not too far."""
    largest = 0.0
    for number, (session, wanted) in enumerate(zip(sessions, expected, strict=True), 1):
        with _running():
            found, *features = session.run(None, {session.get_inputs()[0].name: x})
        off = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        # Not `off > TOLERANCE`, because NaN is not.
        if not off <= TOLERANCE:
            raise ValueError(f"segment {number} gives other logits than the network: off by {off:.2g} of the largest")
        largest = max(largest, off)
        x = features[0] if features else x
    return largest
