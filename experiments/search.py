"""Searches a trained supernet for the subnets that are as accurate as possible at every cost.

python -m experiments.search --run=RUN [--constraint='macs<=3M' ...] [--budget=200] [--dry_run]    # in a clone
ofav2 search --run=RUN                                                    # anywhere, where the package is installed

The same command goes on where it was stopped; with a larger budget it evaluates more. The search is kept in
RUN/search/NAME. A constraint is macs<=3M, params<=500k or latency<=2ms; each is a question by itself.
"""

import contextlib
import signal
import sys
from collections.abc import Sequence

from ofav2_jax.checks import local_path, refuse

from .output import print_anything
from .parser import Parser, add_data_arguments, complain, data_flags, interruptible, open_run


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.search") -> int:
    """Searches, and prints what was found.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0; 2 if the arguments or the run are not usable, and nothing was evaluated or written; 1 if the
        search failed; 128 + the signal if it was stopped.
    """
    print_anything()
    arguments = _parser(program).parse_args(argv)
    from ofav2_jax.run.checkpoint import CorruptCheckpointError

    try:
        search, plan, measure = _prepare(arguments)
    except (ValueError, OSError, ImportError) as error:
        complain(error)
        return 2
    except CorruptCheckpointError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain("interrupted before the search began")
        return 128 + signal.SIGINT
    if arguments.dry_run:
        print("\n".join(plan))
        return 0
    given = sys.argv[1:] if argv is None else list(argv)
    return _execute(search, measure, arguments, given, program)


def _parser(program: str) -> Parser:
    parser = Parser(prog=program, description="Searches a trained supernet for good subnets.")
    parser.add_argument("--run", metavar="RUN", required=True, help="a run directory")
    parser.add_argument("--name", default="default", help="the search's name; it is kept in RUN/search/NAME")
    parser.add_argument(
        "--phase", metavar="NAME", help="the phase whose parameters are used; the last one that has ended"
    )
    parser.add_argument("--cost", default="macs", help="what is to be small: macs, params or latency; macs")
    parser.add_argument("--table", metavar="FILE", help="latencies of a device, see the command latency")
    parser.add_argument(
        "--constraint",
        metavar="LIMIT",
        nargs="+",
        action="extend",
        default=[],
        help="for instance macs<=3M, params<=500k or latency<=2ms",
    )
    parser.add_argument("--exits", default="single", help="single: one exit each; any: sets of exits, averaged")
    parser.add_argument("--budget", type=int, default=200, help="trunks to evaluate in all; 200")
    parser.add_argument("--images", type=int, default=5000, help="validation images to score each with; 5000")
    parser.add_argument("--seed", type=int, default=0, help="other seeds try other subnets; 0")
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and stop")
    add_data_arguments(parser)
    return parser


def _prepare(arguments):
    """The search, before anything is evaluated or written; what it is going to do; what measures a design, or None."""
    from ofav2_jax import extract
    from ofav2_jax.nas.costs import COSTS
    from ofav2_jax.nas.settings import SearchSettings
    from ofav2_jax.run.search.api import make_search, search_directory

    from .caching import cache_programs
    from .search_console import SearchConsole, plan_lines

    wanted = {
        "cost": arguments.cost,
        "constraints": arguments.constraint,
        "exits": arguments.exits,
        "budget": arguments.budget,
        "images": arguments.images,
        "seed": arguments.seed,
    }
    # What can be refused without the data.
    SearchSettings(**wanted).require_costs(COSTS if arguments.table else COSTS[:2])
    search_directory(local_path("run", arguments.run), arguments.name)
    table = None if arguments.table is None else _load_table(arguments.table)
    cache_programs()
    run = open_run(arguments)
    search = make_search(
        run, name=arguments.name, phase=arguments.phase, table=table, reporter=SearchConsole(), **wanted
    )
    measure = None if table is None else lambda design: table.measure(extract(run, design, phase=arguments.phase))
    return search, plan_lines(search.plan), measure


def _load_table(path: str):
    file = local_path("table", path)
    if not file.is_file():
        refuse("table", path, "a file of latencies, see the command latency")
    # Only a search that wants latencies needs what measures them.
    from ofav2_jax.latency.table import LatencyTable

    return LatencyTable.load(file)


def _execute(search, measure, arguments, given: Sequence[str], program: str) -> int:
    """Searches and prints; returns the exit status."""
    from ofav2_jax.run.run import StoppedError
    from ofav2_jax.run.run_directory import DifferentRunError, DirectoryInUseError

    from .console import rebuild_report
    from .search_console import extract_lines, latency_lines, result_lines
    from .stopping import StopSignals

    with StopSignals(search, [*program.split(), *given]) as signals:
        try:
            result = search.run()
        except StoppedError:
            return signals.leave()
        except (DifferentRunError, DirectoryInUseError) as error:
            complain(error)
            return 2
        except (ValueError, OSError) as error:
            complain(error)
            return 1
    run = local_path("run", arguments.run)
    rebuild_report(run)
    extract = "extract".join(program.rsplit("search", 1))
    with contextlib.suppress(OSError):
        print("\n".join(["", *result_lines(result, search.plan.constraints)]))
        commands = extract_lines(result, arguments.run, arguments.name, extract, data_flags(arguments))
        for line in latency_lines(result, measure):
            print(line, flush=True)
        print("\n".join(["", "to take one out:", *(f"    {each}" for each in commands), ""]))
        print(f"results      {result.directory}/front.json, {run}/report.html")
    return 0


if __name__ == "__main__":
    from ofav2_jax.runtime import cpu

    cpu.prepare()
    sys.exit(main())
