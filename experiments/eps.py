"""Extended Progressive Shrinking from the command line.

python -m experiments.eps --config=configs/quickstart.py    # in a clone
ofav2 eps --config=quickstart                               # anywhere, where the package is installed
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax

from ofav2_jax.checks import local_path, refuse
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.model.packing import Params
from ofav2_jax.run.assembly import require_divisible, require_fit
from ofav2_jax.run.checkpoint import CorruptCheckpointError
from ofav2_jax.run.reporter import Reporter, Silent
from ofav2_jax.run.run import Run, StoppedError
from ofav2_jax.run.run_directory import RunDirectory
from ofav2_jax.run.run_info import require_readable_info, write_run_info
from ofav2_jax.runtime import cpu, processes
from ofav2_jax.settings.settings import Settings
from ofav2_jax.train.epoch import NonFiniteLossError

from .arguments import Arguments, read_arguments
from .caching import cache_programs as _cache_programs
from .config import load_dataset, settings_from_config
from .console import Console, print_plan, print_results, rebuild_report
from .output import print_anything
from .parser import complain
from .shipped import shipped_configs
from .stopping import StopSignals

_PROGRAM = "python -m experiments.eps"
_BAD_INPUT, _FAILED = 2, 1
_LOST = "another process of this run ended or cannot be reached ({}): start all of them again, and the run goes on"


def command(arguments: Sequence[str], program: str) -> NoReturn:
    """Runs an experiment as the whole of this process, see `commands.Command`."""
    launch([program, *arguments], program)


def main(argv: list[str], program: str = _PROGRAM) -> int:
    """Runs the experiment that the command line names.

    Args:
        argv: the command line; its first element is not read.
        program: how the user starts this program, which the command that resumes the run repeats.

    Returns:
        The exit status.
    """
    if "--help" in argv:
        print(_usage(program))
        return 0
    resume = [*program.split(), *argv[1:]]
    return supervise(lambda: _prepare(read_arguments(argv), resume), resume)


def supervise(prepare: Callable[[], tuple[Run | None, Path]], resume: Sequence[str]) -> int:
    """Prepares a run and executes it.

    Args:
        prepare: returns the run, None after a dry run, and its directory.
        resume: the command that resumes the run.

    Returns:
        The exit status.
    """
    try:
        run, workdir = prepare()
    except processes.DifferentProcessesError as error:
        return _fail_together(error, _BAD_INPUT)
    except (ValueError, OSError, ImportError) as error:
        return _fail(error, _BAD_INPUT)
    except (CorruptCheckpointError, processes.LostProcessError) as error:
        return _fail(error, _FAILED)
    except KeyboardInterrupt:
        return _fail(RuntimeError("interrupted before the run began"), 128 + signal.SIGINT)
    return 0 if run is None else _execute(run, workdir, resume, is_one_of_several=jax.process_count() > 1)


def _prepare(arguments: Arguments, resume: Sequence[str]) -> tuple[Run | None, Path]:
    """Prints the plan and claims the directory; for a dry run only the former."""
    if arguments.processes is not None:
        processes.connect(*arguments.processes)
    config = arguments.config
    settings = settings_from_config(config)
    # Everything that can be refused without the data, which may have to be downloaded.
    require_divisible(settings, jax.device_count())
    given = _default_workdir(settings.name) if arguments.workdir is None else arguments.workdir
    workdir = local_path("workdir", given)
    require_usable(workdir, settings)
    # Where processes share a disk, the first one downloads and decodes for all.
    dataset = processes.first_before_others(lambda: load_dataset(config, arguments.dry_run))
    run = begin(settings, dataset, workdir, resume, config.checkpoint.every_s, arguments.dry_run)
    return run, workdir


def require_usable(workdir: Path, settings: Settings) -> None:
    """Refuses a directory in which a run with these settings can neither begin nor go on.

    Raises:
        ValueError: naming the directory and the reason.
    """
    if processes.is_first():
        _require_writable(workdir)
        RunDirectory(workdir).check(settings)
        require_readable_info(workdir)


def begin(
    settings: Settings,
    dataset: Dataset,
    workdir: Path,
    resume: Sequence[str],
    checkpoint_every_s: float,
    dry_run: bool,
    start: Params | None = None,
) -> Run | None:
    """Prints the plan and, unless it is a dry run, claims the directory.

    Args:
        settings: the run's settings.
        dataset: its images.
        workdir: its directory.
        resume: the command that resumes it.
        checkpoint_every_s: see `Run`; so are the others.
        dry_run: whether only the plan is wanted.
        start: the parameters with which a fine-tuning starts.
    """
    devices, first = jax.devices(), processes.is_first()
    require_fit(settings, dataset, len(devices))
    if first:
        # That nobody reads it is no reason not to run.
        with contextlib.suppress(OSError):
            print_plan(settings, dataset, workdir, devices)
    if dry_run:
        return None
    _cache_programs()
    reporter: Reporter = Console(workdir) if first else Silent()
    # Claims the directory, after everything else that can be refused.
    run = Run(settings, dataset, workdir, devices, reporter, checkpoint_every_s, start)
    if first:
        write_run_info(workdir, resume)
    return run


def _execute(run: Run, workdir: Path, resume: Sequence[str], is_one_of_several: bool) -> int:
    """Trains and evaluates; returns the exit status."""
    with StopSignals(run, resume) as signals:
        try:
            results = run.execute()
        except StoppedError:
            return signals.leave()
        except NonFiniteLossError as error:
            return _fail_together(error, _FAILED)
        except (CorruptCheckpointError, OSError) as error:
            return _fail(error, _FAILED)
        except (jax.errors.JaxRuntimeError, processes.LostProcessError) as error:
            if signals.are_leaving:
                # The others are gone, as agreed, in the middle of what all of them did.
                return signals.leave()
            if not is_one_of_several:
                raise
            reason = str(error).splitlines()[0]
            lost = error if isinstance(error, processes.LostProcessError) else RuntimeError(_LOST.format(reason))
            return _fail(lost, _FAILED)
    if processes.is_first():
        with contextlib.suppress(OSError):
            print_results(run.settings, results, workdir)
        rebuild_report(workdir)
    processes.leave_together()
    return 0


def _usage(program: str) -> str:
    return f"""Extended Progressive Shrinking: trains a supernet and evaluates its subnets after each phase.

{program} --config=CONFIG[:name=value,...] [--workdir=DIR] [--config.field=value] [--dry_run]
    [--multihost [--coordinator=HOST:PORT --num_processes=N --process_index=I]]

CONFIG is a file or one of {", ".join(name for name in shipped_configs() if name != "finetune")}; for instance
{program} --config=configs/quickstart.py
{program} --config=ee_d:smoke --dry_run"""


def _default_workdir(name: str) -> str:
    if name == ".." or name != Path(name).name:
        refuse("name", name, "a directory's name without '/' where no workdir is given")
    return f"runs/{name}"


def _fail(error: Exception, status: int) -> int:
    complain(error)
    return status


def _fail_together(error: Exception, status: int) -> int:
    """Of several processes, all fail in the same place."""
    _fail(error, status)
    processes.leave_together()
    return status


def _require_writable(path: Path) -> None:
    """Refuses a directory in which nothing can be written; leaves nothing behind."""
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        refuse("workdir", str(path), f"a writable directory ({error.strerror})")
    finally:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()


def _report_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def launch(argv: list[str], program: str = _PROGRAM, main: Callable[[list[str], str], int] = main) -> NoReturn:
    """Runs an experiment as the whole of this process; `main` is the function that does so, see there."""
    print_anything()
    # Orbax logs, with pages of its stack, the errors that it raises; and leaves reads of damaged files behind that end
    # after what waited for them, and whose errors asyncio then reports.
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())
    sys.unraisablehook = _report_unraisable
    try:
        status = main(argv, program)
    except Exception:
        traceback.print_exc()
        status = _FAILED
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Nobody reads it any more; Python would try once more, and exit with a status of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if status:
        # Without waiting for the other processes at the exit, which is how they learn of it; and for threads, because
        # one that still compiles when Python ends aborts the process with a status of its own.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    cpu.prepare()
    launch(sys.argv)
