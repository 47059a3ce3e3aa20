"""Takes a network out of a trained supernet and writes it to one file, recalibrated and tested with the run's images.

python -m experiments.extract --run=RUN --subnet=k5-e4-d3-l7-h4@64 --out=net.safetensors [--phase=NAME]    # in a clone
ofav2 extract --run=RUN --subnet=... --out=net.safetensors                                                # anywhere

`--subnet` is a subnet as results.json and the report write it, one digit for the whole network or one for each level
and stage, and behind the @ the resolution. `+2` behind that adds exit 2, whose logits are then averaged with the last.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from .output import print_anything
from .parser import Parser, complain, require_new_file


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


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
    parser.add_argument("--run", metavar="RUN", type=Path, required=True, help="a run directory")
    parser.add_argument(
        "--subnet", metavar="DESIGN", help="for instance k5-e4-d3-l7-h4@64; the one that the run has fine-tuned"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file, NAME.safetensors")
    parser.add_argument("--phase", help="the phase whose parameters are used; the last one that has ended")
    parser.add_argument("--data_dir", type=Path, help="where the run's data set is, if the run was told so")
    parser.add_argument("--archive", type=Path, help="the archive of Tiny ImageNet, if the run was given one")
    arguments = parser.parse_args(argv)
    try:
        out = require_new_file("out", arguments.out, ".safetensors")
        # JAX is imported only if the arguments make sense.
        from ofav2_jax import Design, extract, open_run

        design = None if arguments.subnet is None else Design.parse(arguments.subnet)
        run = open_run(arguments.run, data_dir=arguments.data_dir, archive=arguments.archive)
        design = design or run.design
        if design is None:
            raise ValueError(f"--subnet is missing: {run.directory} is the run of a supernet, which holds many")
        alone = extract(run, design, phase=arguments.phase)
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


if __name__ == "__main__":
    from ofav2_jax.runtime import cpu

    cpu.prepare()
    sys.exit(main())
