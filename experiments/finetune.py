"""Trains one network of a trained supernet further, in a run of its own.

python -m experiments.finetune --run=RUN --subnet=k5-e4-d3-l7-h4@64 --workdir=DIR [--config.field=value]    # in a clone
ofav2 finetune --run=RUN --subnet=... --workdir=DIR                                                        # anywhere

Only what the network uses is trained, from the supernet's parameters, and RUN is only read. DIR is the directory of a
run like any other: the same command goes on where it was stopped, and `extract --run=DIR` takes the network out.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ofav2_jax.checks import did_you_mean, refuse, require_range
from ofav2_jax.model.design import Design
from ofav2_jax.run.finetune import require_tunable, tuned_settings
from ofav2_jax.run.run import Run
from ofav2_jax.runtime import cpu, processes
from ofav2_jax.settings.finetuning import Finetuning
from ofav2_jax.settings.nested import from_nested

from .arguments import read_arguments
from .eps import begin, launch, require_usable, supervise
from .parser import Parser, add_data_arguments, named_flag, open_run

_PROGRAM = "python -m experiments.finetune"
_OWN = ("--run", "--subnet", "--phase", "--data_dir", "--archive")
# Those of `experiments.eps`.
_SHARED = (
    *("--config", "--workdir", "--dry_run", "--nodry_run", "--multihost", "--nomultihost"),
    *("--coordinator", "--num_processes", "--process_index"),
)


def command(arguments: Sequence[str], program: str) -> NoReturn:
    """Fine-tunes as the whole of this process, see `commands.Command`."""
    launch([program, *arguments], program, main)


def main(argv: list[str], program: str = _PROGRAM) -> int:
    """Fine-tunes the design that the command line names.

    Args:
        argv: the command line; its first element is not read.
        program: how the user starts this program, which the command that resumes the run repeats.

    Returns:
        The exit status, as that of `experiments.eps`.
    """
    resume = [*program.split(), *argv[1:]]
    return supervise(lambda: _prepare(argv, program, resume), resume)


def _prepare(argv: Sequence[str], program: str, resume: Sequence[str]) -> tuple[Run | None, Path]:
    """Prints the plan and claims the directory; for a dry run only the former."""
    parser = _parser(program)
    own, rest = parser.parse_known_args(argv[1:])
    _require_known(rest)
    if not any(re.match("--?config(=|$)", argument) for argument in rest):
        rest.insert(0, "--config=finetune")
    arguments = read_arguments([argv[0], *rest])
    if arguments.processes is not None:
        processes.connect(*arguments.processes)
    if arguments.workdir is None:
        raise ValueError("--workdir is missing: the directory of the run that fine-tunes")
    config = arguments.config.to_dict()
    checkpoint = config.pop("checkpoint", None)
    if not isinstance(checkpoint, dict) or set(checkpoint) != {"every_s"}:
        refuse("checkpoint", checkpoint, "a ConfigDict of every_s")
    require_range("checkpoint.every_s", checkpoint["every_s"], 0)
    tuning = from_nested(Finetuning, config)
    with named_flag("subnet", own.subnet):
        design = Design.parse(own.subnet)
    supernet = open_run(own)
    supernet.require_supernet()
    with named_flag("subnet", own.subnet):
        supernet.require_design(design)
    workdir = require_tunable(supernet, design, arguments.workdir, own.phase)
    dataset = processes.first_before_others(lambda: supernet.dataset)
    settings, start = tuned_settings(supernet, design, own.phase, tuning)
    require_usable(workdir, settings)
    run = begin(settings, dataset, workdir, resume, checkpoint["every_s"], arguments.dry_run, start)
    return run, workdir


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        usage=f"{program} --run=RUN --subnet=DESIGN --workdir=DIR [--phase=NAME] [--config=FILE] "
        "[--config.field=value] [--dry_run] [--data_dir=DIR] [--archive=FILE] [--multihost ...]",
        description="Trains one network of a trained supernet further, in a run of its own.",
        epilog="--workdir, --config, --config.field, --dry_run and --multihost are those of ofav2 eps; the fields are "
        f"{', '.join(field.name for field in dataclasses.fields(Finetuning))} and checkpoint.every_s.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", metavar="RUN", required=True, help="the run directory of the supernet")
    parser.add_argument("--subnet", metavar="DESIGN", required=True, help="for instance k5-e4-d3-l7-h4@64")
    parser.add_argument("--phase", metavar="NAME", help="the phase of RUN whose parameters are the start; the last one")
    add_data_arguments(parser)
    return parser


def _require_known(arguments: Sequence[str]) -> None:
    """Refuses flags that are neither this command's nor, as those of `experiments.eps`, read by `read_arguments`."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and not name.startswith(("--config.", "--noconfig.")) and name not in _SHARED:
            raise ValueError(f"{name} is unknown{did_you_mean(name, [*_OWN, *_SHARED], str)}")


if __name__ == "__main__":
    cpu.prepare()
    launch(sys.argv, _PROGRAM, main)
