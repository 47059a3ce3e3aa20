"""Takes a network out of a trained supernet and writes it to one file, recalibrated and tested with the run's images.

python -m experiments.extract --run=RUN --subnet=k5-e4-d3-l7-h4@64 --out=net.safetensors [--phase=NAME]    # in a clone
python -m experiments.extract --run=RUN --search=NAME --constraint='macs<=3M' --out=net.safetensors
ofav2 extract --run=RUN --subnet=... --out=net.safetensors                                                # anywhere

`--subnet` is a subnet as results.json and the report write it, one digit for the whole network or one for each level
and stage, and behind the @ the resolution. `+2` behind that adds exit 2, whose logits are then averaged with the last.
`--search` takes, from what a search of the run found, the most accurate design on validation images that meets the
constraint. Of a run that has fine-tuned a design that one is taken, without either, and no other one can be.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .output import print_anything
from .parser import Parser, add_data_arguments, complain, interruptible, named_flag, new_file, open_run

if TYPE_CHECKING:
    from ofav2_jax.model.design import Design
    from ofav2_jax.run.opened import OpenedRun


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.extract") -> int:
    """Writes the network, and prints what it is.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0, or 2 if the arguments, the run or the target are not usable; nothing is written then.
    """
    print_anything()
    parser = Parser(prog=program, description="Takes a network out of a trained supernet.")
    parser.add_argument("--run", metavar="RUN", required=True, help="a run directory")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--subnet", metavar="DESIGN", help="for instance k5-e4-d3-l7-h4@64; the one that the run has fine-tuned"
    )
    which.add_argument("--search", metavar="NAME", help="a search of this run, from which the best one is taken")
    parser.add_argument("--constraint", metavar="LIMIT", help="with --search: macs<=3M, params<=500k or latency<=2ms")
    parser.add_argument("--out", metavar="FILE", required=True, help="the file, NAME.safetensors")
    parser.add_argument(
        "--phase", metavar="NAME", help="the phase whose parameters are used; the last one that has ended"
    )
    add_data_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        with new_file("out", arguments.out, ".safetensors") as out:
            # JAX is imported only if the arguments make sense.
            from ofav2_jax import Design, extract

            asked = None
            if arguments.subnet is not None:
                with named_flag("subnet", arguments.subnet):
                    asked = Design.parse(arguments.subnet)
            run = open_run(arguments)
            design, phase = _design_and_phase(run, asked, arguments)
            alone = extract(run, design, phase=phase)
            alone.save(out)
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        return 2
    accuracy = alone.about["accuracy"]
    print(f"network      {design}")
    print(f"of           {alone.about['run']['name']}, phase {alone.about['run']['phase']}")
    print(f"cost         {alone.params:,} parameters, {alone.macs / 1e6:.2f} M multiply-accumulates an image")
    for split in ("validation", "test"):
        print(f"{split:<12} top-1 {accuracy[split]['top1']:.2f} % of {accuracy[split]['images']} images")
    print(f"written to   {out} ({out.stat().st_size / 1e6:.2f} MB)")
    return 0


def _design_and_phase(
    run: "OpenedRun", asked: "Design | None", arguments: argparse.Namespace
) -> tuple["Design", str | None]:
    """The design to take, `asked` if there is `--subnet`, and the phase whose parameters it is to have."""
    for name in ("search", "constraint"):
        if run.design is not None and (value := getattr(arguments, name)) is not None:
            raise ValueError(
                f"{name}={value!r} is not allowed: {run.directory} has fine-tuned {run.design}, and its weights are "
                "for that design alone"
            )
    if arguments.search is not None:
        if arguments.constraint is None:
            raise ValueError(
                "--constraint is missing: --search takes the best design that meets one, for instance macs<=3M"
            )
        if arguments.phase is not None:
            raise ValueError("--phase is not allowed with --search, which was made of the parameters of one phase")
        return _winner(run, arguments.search, arguments.constraint)
    if arguments.constraint is not None:
        raise ValueError("--constraint goes with --search, among whose designs it chooses")
    if asked is not None:
        with named_flag("subnet", arguments.subnet):
            run.require_design(asked)
        return asked, arguments.phase
    if run.design is None:
        raise ValueError(
            f"--subnet is missing: {run.directory} is the run of a supernet, which holds many; or name a --search"
        )
    return run.design, arguments.phase


def _winner(run: "OpenedRun", name: str, text: str) -> tuple["Design", str]:
    """The design of a search, and the phase whose parameters were searched."""
    from ofav2_jax.nas.costs import Constraint
    from ofav2_jax.nas.result import best_of, read_front
    from ofav2_jax.run import checkpoint
    from ofav2_jax.run.search.api import search_directory

    constraint = Constraint.parse(text)
    found, content = read_front(search_directory(run.directory, name, "search"))
    design, searched = best_of(found, content["cost"], constraint).design, content["run"]
    if checkpoint.digest(run.params(searched["phase"])) != searched["params_sha256"]:
        raise ValueError(f"search={name!r} is one of other parameters than those of phase {searched['phase']!r} here")
    return design, searched["phase"]


if __name__ == "__main__":
    from ofav2_jax.runtime import cpu

    cpu.prepare()
    sys.exit(main())
