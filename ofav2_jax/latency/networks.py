"""Whole networks in files: what they are, and what they take here."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ofav2_jax import files
from ofav2_jax.checks import local_file, require_package, require_positive
from ofav2_jax.deploy import segments
from ofav2_jax.deploy.onnx_file import to_onnx
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.deploy.verify import onnx_session
from ofav2_jax.latency import measure
from ofav2_jax.latency.times import of_rounds
from ofav2_jax.model.design import Design
from ofav2_jax.model.supernet import SuperNet

_BUDGET = {"min_rounds": 10, "max_rounds": 60, "seconds": 20}

Say = Callable[[str], None]


def describe(path: str | os.PathLike) -> tuple[SuperNet, Design]:
    """The supernet and the design of a file that extract or export wrote.

    Raises:
        ValueError: if the file cannot be read, or says of itself another thing than a table predicts.
        ImportError: without the extra `export`.
    """
    file = local_file("path", path, ".onnx", ".safetensors")
    try:
        if file.suffix == ".safetensors":
            header, input = Standalone.load(file).header(), "uint8"
        else:
            metadata = onnx_session(file)[1]
            if segments.METADATA in metadata:
                raise ValueError(f"{file} is a segment of a cascade; a table predicts whole networks")
            header = json.loads(metadata["ofav2_jax"])
            input = header["input"]
        net = SuperNet(**header["about"]["supernet"], num_classes=header["num_classes"])
        design = Design.from_json(header["design"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as reason:
        raise ValueError(f"{file} does not say which network it is: {files.reason(reason)}") from reason
    if input != "uint8":
        raise ValueError(f"{file} is not a whole network that reads uint8 images, as tables have them: {input}")
    return net, design


def time_networks(
    networks: Sequence[Standalone | str | os.PathLike],
    threads: int = 1,
    batch_size: int = 1,
    say: Say = lambda line: None,
    make_timer: Callable[..., Callable[[], float]] = measure.timer,
) -> list[float]:
    """Times whole networks in turns, as tables do.

    Args:
        networks: networks, or files that extract or export wrote.
        threads: threads that a network runs on.
        batch_size: images that it runs on.
        say: is told the progress, a line each time.
        make_timer: measures a file, see `measure.timer`.

    Returns:
        Milliseconds for a batch.

    Raises:
        ValueError: if one cannot be run.
        ImportError: without the extra `export`.
    """
    require_positive("threads", threads)
    require_positive("batch_size", batch_size)
    require_package("onnxruntime", "export")
    with tempfile.TemporaryDirectory() as directory:
        paths = [_as_onnx(network, Path(directory) / f"{place}.onnx") for place, network in enumerate(networks)]
        visits = {}
        for place, path in enumerate(paths):
            try:
                visits[place] = make_timer(path, threads, batch_size)
                visits[place]()
            except Exception as error:  # a runtime has classes of its own, without a common base
                raise ValueError(f"{networks[place]} does not run: {' '.join(str(error).split())}") from error
        times: dict[int, list[float]] = {place: [] for place in visits}
        for _ in measure.rounds(visits, times, _BUDGET, say):
            pass
    return [1e-3 * float(of_rounds(times[place])) for place in visits]


def _as_onnx(network: Standalone | str | os.PathLike, path: Path) -> Path:
    """The file of a network, which is written to `path` unless it is there already."""
    if not isinstance(network, Standalone):
        file = local_file("networks", network, ".onnx", ".safetensors")
        if not file.is_file():
            raise ValueError(f"{file} cannot be measured: there is no such file")
        if file.suffix == ".onnx":
            return file
        network = Standalone.load(file)
    to_onnx(network, path)
    return path
