"""For every test: eight virtual CPU devices, and programs that are compiled without optimisation.

Compiled programs are dropped after each test module.
"""

import os
import tempfile

import hypothesis
import jax
import pytest

from ofav2_jax.runtime import programs
from tests.helpers import runs

# Compiling takes most of the tests' time; without optimisation it takes half as long. The flag is for what the product
# compiles without options of its own, and for the processes that tests start.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
programs.compile_quickly()
jax.config.update("jax_num_cpu_devices", 8)


_LONGEST = (
    *("runs", "test_parity", "test_devices", "test_supernet", "test_step", "test_trajectories", "test_traces"),
    *("test_ahead", "test_epoch", "test_evaluate", "test_lowering", "test_library", "test_channels", "test_interop"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Groups the tests for two processes: a module's tests run in one process, and so do all that need the same runs.

    This hook is the first, because pytest-xdist reads the groups in a hook of its own.
    """
    groups = {item: "runs" if "cache" in item.fixturenames else item.module.__name__ for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    # Groups are handed out in the order of their first tests: the longest first, so that none is left over at the end.
    items.sort(key=lambda item: _LONGEST.index(groups[item]) if groups[item] in _LONGEST else len(_LONGEST))


# No deadline, because a slow machine is not a failure.
hypothesis.settings.register_profile("ofav2_jax", deadline=None)
hypothesis.settings.load_profile("ofav2_jax")


@pytest.fixture(autouse=True, scope="session")
def _temporary_directory(tmp_path_factory):
    """Puts what libraries leave in the directory for temporary files into one that pytest removes.

    TensorFlow Datasets makes an empty folder there for every builder.
    """
    directory = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", directory)
        patch.setenv("TMPDIR", directory)
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Drops compiled programs: one for a CPU has hundreds of memory mappings, and a process may have 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The directory of programs compiled by runs that tests start as processes, so that each is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, cache):
    """A whole run: its directory and its output."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    status, out, err = runs.finish(runs.launch(workdir, cache))
    assert status == 0, err
    return workdir, out


@pytest.fixture(scope="session")
def killed(tmp_path_factory, cache, uninterrupted):
    """A run that was killed in the middle of its second phase, with a checkpoint after every step."""
    workdir = tmp_path_factory.mktemp("killed")
    process = runs.launch(workdir, cache, "--config.checkpoint.every_s=0", TEST_SAVES_AFTER_S="0.5")
    # Phase full has 6 steps, kernel another 3. The start of a phase is a checkpoint with a number of its own.
    assert runs.wait_until((workdir / "state" / "9").exists, process)
    runs.kill(process)
    assert not (workdir / "phases" / "01-kernel" / "result.json").exists()
    return workdir
