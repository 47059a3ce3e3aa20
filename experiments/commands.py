"""The command `ofav2`: one name for all programs of this folder, from any working directory."""

import dataclasses
import importlib
import sys
from collections.abc import Sequence

from ofav2_jax import __version__
from ofav2_jax.checks import did_you_mean
from ofav2_jax.runtime import cpu


@dataclasses.dataclass(frozen=True)
class Command:
    """A program of this folder.

    Attributes:
        module: its module in this folder, with a function `command(arguments, program)` that takes the arguments after
            the name of the program, and that name, and returns the exit status.
        arguments: the most important ones, for the usage.
        summary: one line about it, for the usage.
        computes: whether it trains or evaluates, so that it pays to prepare the process for that.
    """

    module: str
    arguments: str
    summary: str
    computes: bool = False


COMMANDS = {
    "eps": Command("eps", "--config=CONFIG", "train a supernet by Extended Progressive Shrinking", computes=True),
    "tables": Command("tables", "[--seeds] RUN...", "set the results of runs beside the paper's tables"),
    "report": Command("report", "RUN", "rebuild the page of a run"),
    "search": Command("search", "--run=RUN --constraint='macs<=3M'", "find good subnets in a run", computes=True),
    "extract": Command("extract", "--run=RUN --subnet=... --out=FILE", "take a network out of a run", computes=True),
    "finetune": Command("finetune", "--run=RUN --subnet=... --workdir=DIR", "train one network further", computes=True),
    "export": Command("export", "--network=FILE --format=onnx --out=FILE", "write it for other runtimes"),
    "cascade": Command("cascade", "--run=RUN --network=FILE --out=DIR ...", "stop early at sure exits", computes=True),
    "latency": Command("latency", "--run=RUN --out=DEVICE.json", "measure what its networks take on a device"),
    "predict": Command("predict", "--network=FILE IMAGE...", "say what is on images"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names.

    Args:
        argv: the command line after the name of the program; None means that of this process.

    Returns:
        The exit status: that of the command, or 2 if there is no such command.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h"):
        print(_usage())
        return 0
    if name == "--version":
        print(f"ofav2_jax {__version__}")
        return 0
    if name not in COMMANDS:
        hint = did_you_mean(name, [*COMMANDS, "--help", "--version"])
        print(f"error: command {name!r} is unknown; choose one of {', '.join(COMMANDS)}{hint}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    if command.computes:
        # Before JAX is imported, because this may start the process over.
        cpu.prepare()
    module = importlib.import_module(f".{command.module}", __package__)
    return module.command(arguments[1:], f"ofav2 {name}")


def _usage() -> str:
    lines = [f"    ofav2 {name + ' ' + each.arguments:<48}  {each.summary}" for name, each in COMMANDS.items()]
    return "\n".join(["usage:", *lines, "", "ofav2 COMMAND --help says more; ofav2 --version names the version."])
