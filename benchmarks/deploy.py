"""Times networks that were taken out: in onnxruntime beside the same subnet out of PyTorch, and in JAX.

python -m benchmarks.deploy [--resolutions=64,224] [--rounds=20] [--json=FILE]

Three random subnets of the baseline network (width multiplier 1.0, 1,000 classes, random weights). In onnxruntime, one
thread, one image: our file (float input) and that of `torch.onnx` for the subnet of the package `ofa` with the same
weights (extra `bench`). In batches of 32, both with a thread for each core that the process may use: `Standalone.apply`
and our file. Candidates take turns; a time is the median of the rounds, a ratio the median of the rounds' ratios. All
of them must compute the same logits, which must depend on the image.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ofav2_jax as ofa
from benchmarks.ours import machine, print_setting, write_json
from benchmarks.pytorch import stand_in_for_torchvision
from ofav2_jax.runtime import cpu

NUM_CLASSES, BATCH_SIZE = 1000, 32


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", default="64,224")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()

    net, once = _networks()
    results: dict[str, Any] = {"machine": machine(), "setting": {"classes": NUM_CLASSES}, "rows": []}
    print_setting(results)
    print(f"\n{'subnet':<20}{'pixels':>7}{'images':>8}{'ours, ms':>10}{'theirs':>10}{'ratio':>8}")
    for number, subnet in enumerate(ofa.SearchSpace(net).sample(jax.random.key(0), 3)):
        variables = _recalibrated(net, once, subnet)
        for resolution in map(int, args.resolutions.split(",")):
            alone = ofa.extract(net, variables, ofa.Design(subnet, resolution))
            for kind, ours, theirs in _candidates(alone, once):
                row = {
                    "subnet": str(subnet),
                    "resolution": resolution,
                    "kind": kind,
                    **_time(ours, theirs, args.rounds),
                }
                results["rows"].append(row)
                print(
                    f"{f'{number} {kind}':<20}{resolution:>7}{1 if kind == 'onnxruntime' else BATCH_SIZE:>8}"
                    f"{row['ours_ms']:>10.3f}{row['theirs_ms']:>10.3f}{row['ratio']:>8.3f}",
                    flush=True,
                )
    write_json(args.json, results)


def _networks() -> tuple[ofa.SuperNet, Any]:
    """The supernet here and in PyTorch."""
    stand_in_for_torchvision()
    import torch
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    torch.manual_seed(0)
    once = OFAMobileNetV3(
        n_classes=NUM_CLASSES, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4]
    ).eval()
    return ofa.SuperNet("ofa_mbv3", 1.0, NUM_CLASSES), once


def _recalibrated(net: ofa.SuperNet, once: Any, subnet: ofa.Subnet) -> Any:
    """The weights, with statistics of this subnet's activations, without which these vanish: all images look alike."""
    import torch
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

    once.set_active_subnet(ks=list(subnet.kernel), e=list(subnet.expand), d=list(subnet.depth))
    images = torch.from_numpy(_channels_first(_images(BATCH_SIZE, 64)))
    set_running_statistics(once, [(images, torch.zeros(BATCH_SIZE))])
    return ofa.load_torch(once.state_dict(), net)


def _images(number: int, resolution: int) -> np.ndarray:
    """Noise around a colour of each image's own, [number, resolution, resolution, 3]."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((number, resolution, resolution, 3), np.float32)
    return noise + rng.standard_normal((number, 1, 1, 3), np.float32)


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


def _candidates(alone: ofa.Standalone, once: Any) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """What is compared: a name, ours and the other."""
    with tempfile.TemporaryDirectory() as directory:
        own, other = Path(directory) / "own.onnx", Path(directory) / "other.onnx"
        ofa.to_onnx(alone, own, input="float")
        _export(once, alone.design, other)
        ours, theirs, parallel = _session(own, 1), _session(other, 1), _session(own, len(os.sched_getaffinity(0)))
    x = _images(BATCH_SIZE, alone.design.resolution)
    one, first = x[:1], _channels_first(x[:1])
    on_device = jax.device_put(x)
    expected = parallel.run(["logits"], {"images": x})[0]
    if not expected.std(0).max() > 1e-2 * np.abs(expected).max():
        raise RuntimeError(f"the logits of {alone.design} do not depend on the image")
    for found in (
        ours.run(["logits"], {"images": one})[0],
        theirs.run(None, {"images": first})[0],
        np.asarray(alone.apply(on_device)),
    ):
        if not np.abs(found - expected[: len(found)]).max() <= 1e-4 * np.abs(expected).max():
            raise RuntimeError(f"the files of {alone.design} and the network itself do not compute the same")
    return [
        ("onnxruntime", lambda: ours.run(["logits"], {"images": one}), lambda: theirs.run(None, {"images": first})),
        (
            "apply",
            lambda: jax.block_until_ready(alone.apply(on_device)),
            lambda: parallel.run(["logits"], {"images": x}),
        ),
    ]


def _export(once: Any, design: ofa.Design, path: Path) -> None:
    import torch

    subnet = design.subnet
    once.set_active_subnet(ks=list(subnet.kernel), e=list(subnet.expand), d=list(subnet.depth))
    module = once.get_active_subnet(preserve_weight=True).eval()
    image = torch.zeros(1, 3, design.resolution, design.resolution)
    torch.onnx.export(module, (image,), str(path), input_names=["images"], opset_version=17, dynamo=False)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads of onnxruntime that wait for its next call would take the cores from what is timed in turn with it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _time(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    ours(), theirs()
    for _ in range(rounds):
        for name, candidate in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            candidate()
            seconds[name].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"])]
    return {
        "ours_ms": 1e3 * statistics.median(seconds["ours"]),
        "theirs_ms": 1e3 * statistics.median(seconds["theirs"]),
        "ratio": statistics.median(ratios),
    }


if __name__ == "__main__":
    cpu.prepare()
    main()
