"""Lets images leave a network of several exits at the first exit that is sure enough, and writes it for onnxruntime.

python -m experiments.cascade --run=RUN --network=net.safetensors --constraint='macs<=2M' --out=DIR    # in a clone
ofav2 cascade --run=RUN --network=net.safetensors --constraint='macs<=2M' --out=DIR                    # anywhere

The network is one with several exits (`...@64+2+3`) that extract took out of this run. A constraint limits the mean
cost of an image, `macs<=2M` or, if --latency names the milliseconds of each segment, `latency<=1.5ms`; there may be
several. DIR gets the network in segments, cascade.json and run.py, which needs numpy and onnxruntime only.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofav2_jax.checks import require_package

from .output import print_anything
from .parser import Parser, add_data_arguments, complain, interruptible, load_network, new_directory, open_run

_SPLITS = ("validation", "test")
# Thresholds that are none.
_ENDS = {0.0: "any", 2.0: "never"}


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.cascade") -> int:
    """Chooses thresholds, writes and verifies the directory, and prints what the cascades do.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0; 1 if the files did not do what was simulated; 2 if the arguments, the run, the network or
        the target are not usable, or a package is missing. Except for 0 nothing is left.
    """
    print_anything()
    arguments = _parser(program).parse_args(argv)
    try:
        with new_directory("out", arguments.out) as out:
            return _cascade(arguments, out)
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        return 2


def _cascade(arguments: argparse.Namespace, out: Path) -> int:
    """Makes the directory; returns the exit status."""
    # JAX is imported only if the arguments make sense.
    from ofav2_jax.run.cascade import make_cascades, parse_constraints

    require_package("onnx", "export")
    require_package("onnxruntime", "export")
    constraints = parse_constraints(arguments.constraint)
    segment_ms = None if arguments.latency is None else _numbers(arguments.latency)
    run, alone = open_run(arguments), load_network("network", arguments.network)
    made = make_cascades(run, alone, constraints, segment_ms, arguments.input)
    # Renamed at the end, so that the target is never there without all of its files.
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as directory:
        written = Path(directory) / out.name
        written.mkdir()
        made.write(written)
        try:
            difference = made.verify(written)
        except ValueError as error:
            complain(f"{error}; removed")
            return 1
        written.rename(out)
    print(f"network      {alone.design}")
    _print(made.record())
    print(f"verified     logits within {difference:.1g} of the largest; every validation image leaves where simulated")
    print(f"written to   {out} (run.py, cascade.json, {len(made.segments)} segments)")
    return 0


def _parser(program: str) -> Parser:
    parser = Parser(prog=program, description="Lets images leave a network at the first exit that is sure enough.")
    parser.add_argument("--run", metavar="RUN", required=True, help="a run directory")
    parser.add_argument("--network", metavar="FILE", required=True, help="a file that extract wrote")
    parser.add_argument(
        "--constraint",
        metavar="LIMIT",
        nargs="+",
        action="extend",
        required=True,
        help="for instance macs<=2M or latency<=1.5ms",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="a new directory")
    parser.add_argument("--latency", metavar="MS,MS,...", help="the milliseconds of each segment")
    parser.add_argument("--input", choices=("uint8", "float"), default="uint8", help="what is read; uint8")
    add_data_arguments(parser)
    return parser


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"latency={text!r} is not allowed: numbers with commas between them") from None


def _print(record: dict[str, Any]) -> None:
    source, cascades = record["about"]["run"], record["cascades"]
    validation, test = (cascades[0][split]["images"] for split in _SPLITS)
    print(f"of           {source['name']}, phase {source['phase']}")
    print(f"images       {validation:,} validation, by which thresholds were chosen, and {test:,} test")
    print(f"             top-1 is in %; an image is {100 / validation:.2f} and {100 / test:.2f} points\n")
    exits = [segment["exit"] for segment in record["segments"]]
    print(f"{'':18}{'M multiply-accumulates':^30}{'top-1':^22}left at exit, % of test images")
    numbers = "".join(f"{exit:>7}" for exit in exits)
    print(f"{'':18}{'validation':>10}{'test':>10}{'at most':>10}{'validation':>12}{'test':>10}{numbers}")
    for each in record["static"]:
        name = "mean of exits" if len(each["exits"]) > 1 else f"exit {each['exits'][0]}"
        print(f"{name:<18}{each['macs'] / 1e6:>30.3f}{_top1(each)}")
    for each in cascades:
        macs = [*(each[split]["mean"]["macs"] for split in _SPLITS), each["worst"]["macs"]]
        shares = "".join(f"{100 * share:>7.1f}" for share in each["test"]["shares"])
        print(f"{each['constraint']:<18}{''.join(f'{number / 1e6:>10.3f}' for number in macs)}{_top1(each)}{shares}")
    print()
    for each in cascades:
        texts = (_ENDS.get(threshold, f"{threshold:.4f}") for threshold in each["thresholds"])
        print(f"{each['constraint']:<18}leaves from a probability of  {'  '.join(texts)}")
        if "latency" in each["worst"]:
            mean, worst = each["validation"]["mean"]["latency"], each["worst"]["latency"]
            print(f"{'':18}{mean:.3g} ms in the mean of the validation images, at most {worst:.3g} ms")


def _top1(record: dict[str, Any]) -> str:
    return f"{record['validation']['top1']:>12.2f}{record['test']['top1']:>10.2f}"


if __name__ == "__main__":
    from ofav2_jax.runtime import cpu

    cpu.prepare()
    sys.exit(main())
