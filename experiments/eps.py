"""Extended Progressive Shrinking from the command line.

python -m experiments.eps --config=configs/quickstart.py [--workdir=DIR] [--config.field=value] [--dry_run]
"""

import os
import sys
import tempfile
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from experiments.console import Console, print_plan, print_results, rebuild_report
from experiments.huge_pages import use_huge_pages
from experiments.settings import load_dataset, settings_from_config
from ofav2_jax import train
from ofav2_jax.checkpoint import CorruptCheckpointError
from ofav2_jax.report import write_run_info

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, configs/X.py[:name=value,...].")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory; runs/<name> if not given.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan and stop.")

_BAD_INPUT, _FAILED = 2, 1


def main(argv: list[str]) -> int:
    """Runs the experiment that the command line names; returns the exit status."""
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest:
            raise ValueError(f"argument {rest[0]!r} is not understood; see --help")
        if _CONFIG.value is None:
            raise ValueError("--config is missing; for instance --config=configs/quickstart.py")
        config = _CONFIG.value
        settings = settings_from_config(config)
        workdir = _writable_directory(f"runs/{settings.name}" if _WORKDIR.value is None else _WORKDIR.value)
        dataset = load_dataset(config)
        devices = jax.devices()
        train.check(settings, dataset, len(devices))
        print_plan(settings, dataset, workdir, devices)
        if _DRY_RUN.value:
            return 0
        _cache_programs()
        run = train.Run(settings, dataset, workdir, devices, Console(workdir), config.checkpoint.every_s)
        write_run_info(workdir, ["python", "-m", "experiments.eps", *argv[1:]])
    except (ValueError, TypeError, AttributeError, KeyError, OSError, flags.Error) as error:
        return _fail(error, _BAD_INPUT)
    try:
        results = run.execute()
    except (train.NonFiniteLossError, CorruptCheckpointError) as error:
        return _fail(error, _FAILED)
    print_results(settings, results, workdir)
    rebuild_report(workdir)
    return 0


def _fail(error: Exception, status: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _writable_directory(name: str) -> Path:
    if not name:
        raise ValueError("workdir='' is not allowed: name a directory")
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"workdir={name!r} is not allowed: it must be a writable directory ({error.strerror})"
        ) from error
    return path


def _cache_programs() -> None:
    """Keeps compiled programs between runs, in the user's cache directory unless JAX is told otherwise."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "ofav2_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main(sys.argv))
