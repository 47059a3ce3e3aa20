"""Measures what the networks of a supernet take on a device: blocks, whose sums are fitted to whole networks.

python -m experiments.latency --run=RUN --out=DEVICE.json [--threads=1] [--batch_size=1]    # a table of this machine
python -m experiments.latency --run=RUN --prepare=DIR [--threads=1] [--batch_size=1]        # for another device:
python measure.py                                  # there, in the folder; numpy and onnxruntime suffice
python -m experiments.latency --collect=DIR/times.json --out=DEVICE.json                    # then here again
python -m experiments.latency --measure FILE... [--table=DEVICE.json]                       # networks in files, here
ofav2 latency --run=RUN --out=DEVICE.json          # anywhere, where the package is installed

Of the run only the settings are used. FILE is what extract or export wrote; with a table of this machine the predicted
time stands beside the measured one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ofav2_jax.checks import local_file

from .output import print_anything
from .parser import Parser, complain, interruptible, new_directory, new_file, open_run

if TYPE_CHECKING:
    from ofav2_jax.latency.table import LatencyTable
    from ofav2_jax.model.supernet import SuperNet

# What each of the three uses of the command may be given.
_ALLOWED = {
    "run": ("out", "prepare", "threads", "batch_size"),
    "collect": ("out",),
    "measure": ("table", "threads", "batch_size"),
}
# Beyond this error, and twice the noise, a table is not as good as it can be.
_GOOD_PCT = 5


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.latency") -> int:
    """Measures, and prints what came out.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0, or 2 if arguments, run, file or target are not usable; nothing is written then.
    """
    print_anything()
    parser = _parser(program)
    arguments = parser.parse_args(argv)
    use = _use(arguments, parser)
    try:
        {"run": _run, "collect": _collect, "measure": _measure}[use](arguments, program)
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        return 2
    return 0


def _parser(program: str) -> Parser:
    parser = Parser(prog=program, description="Measures what the networks of a supernet take on a device.")
    parser.add_argument("--run", metavar="RUN", help="a run directory, whose supernet the table is of")
    parser.add_argument("--out", metavar="DEVICE.json", help="the table to be written")
    parser.add_argument("--prepare", metavar="DIR", help="the folder for another device to be written")
    parser.add_argument("--collect", metavar="FILE", help="times.json, as measure.py wrote it there")
    parser.add_argument("--measure", metavar="FILE", nargs="+", help="NAME.onnx or NAME.safetensors")
    parser.add_argument("--table", metavar="DEVICE.json", help="a table, to predict what is measured")
    parser.add_argument("--threads", metavar="N", type=int, help="threads that a network runs on; 1")
    parser.add_argument("--batch_size", metavar="N", type=int, help="images that it runs on; 1")
    return parser


def _use(arguments: argparse.Namespace, parser: Parser) -> str:
    """Which of the uses it is; refuses what does not go together."""
    uses = [name for name in _ALLOWED if getattr(arguments, name) is not None]
    if len(uses) != 1:
        parser.error(f"one of {', '.join(f'--{name}' for name in _ALLOWED)} is required")
    for name, value in vars(arguments).items():
        if value is not None and name not in (*uses, *_ALLOWED[uses[0]]):
            parser.error(f"--{name} does not go with --{uses[0]}")
    if uses != ["measure"] and (arguments.out is None) == (arguments.prepare is None):
        parser.error(f"--{uses[0]} needs --out" + (" or --prepare" if uses == ["run"] else ""))
    if arguments.table is not None and (arguments.threads is not None or arguments.batch_size is not None):
        parser.error("threads and batch size are those of --table")
    return uses[0]


def _how(arguments: argparse.Namespace) -> tuple[int, int]:
    """Threads and batch size."""
    threads, batch_size = arguments.threads, arguments.batch_size
    return 1 if threads is None else threads, 1 if batch_size is None else batch_size


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace, program: str) -> None:
    if arguments.prepare is not None:
        with new_directory("prepare", arguments.prepare, may_be_empty=True) as folder:
            _prepare(arguments, folder, program)
        return
    with new_file("out", arguments.out, ".json") as out:
        # JAX is imported only if the arguments make sense.
        from ofav2_jax.latency.table import LatencyTable

        table = LatencyTable.build(*_of_run(arguments), *_how(arguments), say=_say)
        table.save(out)
    _print(table, out)


def _of_run(arguments: argparse.Namespace) -> "tuple[SuperNet, list[int]]":
    """The supernet of a run, and its resolutions."""
    from ofav2_jax import SuperNet, files

    run = open_run(arguments)
    classes = files.read_json(run.directory / files.DATA, ("classes",))["classes"]
    net = SuperNet(run.settings.network, run.settings.width_multiplier, classes)
    return net, list(run.settings.resolutions)


def _prepare(arguments: argparse.Namespace, folder: Path, program: str) -> None:
    from ofav2_jax.latency.write import prepare

    net, resolutions = _of_run(arguments)
    prepare(net, resolutions, folder, *_how(arguments))
    written = [file.stat().st_size for file in folder.rglob("*.onnx")]
    print(f"written to   {arguments.prepare} ({len(written)} files, {sum(written) / 1e6:.0f} MB)")
    print("then         python measure.py, there, on the device")
    print(f"and          {program} --collect={arguments.prepare}/times.json --out=DEVICE.json")


def _collect(arguments: argparse.Namespace, program: str) -> None:
    with new_file("out", arguments.out, ".json") as out:
        from ofav2_jax.latency.table import LatencyTable

        table = LatencyTable.collect(local_file("collect", arguments.collect, ".json"))
        table.save(out)
    _print(table, out)


def _print(table: "LatencyTable", out: Path) -> None:
    net, device, setting, found = table.net, table.device, table.setting, table.held_out
    sizes = ", ".join(map(str, table.resolutions))
    print(f"network      {net.network}, width multiplier {net.width_multiplier}, {net.num_classes} classes, at {sizes}")
    print(f"device       {device['device']['processor']}, {device['runtime']} {device['version']}", end="")
    print(f", threads {setting['threads']}, batch size {setting['batch_size']}")
    print(f"table        {len(table.blocks_us)} blocks, fitted to whole networks")
    print(f"error        {found['median_pct']:.1f} % (median of {found['n']} other networks), ", end="")
    print(f"{found['within_10pct']:.0f} % within 10 %, Kendall's tau {found['tau']:.2f}")
    print(f"noise        {found['repeat_noise_pct']:.1f} % between two halves of the measurement ", end="")
    print(f"(median; at most {found['repeat_noise_max_pct']:.1f} %)")
    print(f"written to   {out}")
    if found["median_pct"] > max(_GOOD_PCT, 2 * found["repeat_noise_pct"]):
        complain("sums of blocks explain whole networks badly; measure again while nothing else runs", "warning")


def _measure(arguments: argparse.Namespace, program: str) -> None:
    from ofav2_jax.latency.networks import describe, time_networks
    from ofav2_jax.latency.table import LatencyTable

    paths = [local_file("measure", path, ".onnx", ".safetensors") for path in arguments.measure]
    if arguments.table is None:
        measured = time_networks(paths, *_how(arguments), _say)
        for path, ms in zip(paths, measured):
            print(f"{ms:>10.3f} ms  {path}")
        return
    table = LatencyTable.load(local_file("table", arguments.table, ".json"))
    table.require_here()
    predicted = []
    for path in paths:
        net, design = describe(path)
        table.require_fit(net, [design.resolution])
        predicted.append(table.predict([design])[0])
    measured = time_networks(paths, table.setting["threads"], table.setting["batch_size"], _say)
    print(f"{'measured':>10}{'predicted':>13}")
    for path, ms, expected in zip(paths, measured, predicted):
        print(f"{ms:>7.3f} ms {expected:>9.3f} ms {100 * (expected / ms - 1):>+7.1f} %  {path}")


if __name__ == "__main__":
    sys.exit(main())
