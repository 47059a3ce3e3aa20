"""Eight virtual CPU devices, programs compiled without optimisation and not kept beyond a module, for every test."""

import hypothesis
import jax
import pytest

from ofav2_jax.runtime import programs
from tests.helpers import runs

jax.config.update("jax_num_cpu_devices", 8)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Two processes share the tests: those of a module, and all that need the same runs, go to the same one.

    First of all hooks, because pytest-xdist reads the groups in a hook of its own.
    """
    for item in items:
        group = "runs" if "cache" in item.fixturenames else item.module.__name__
        item.add_marker(pytest.mark.xdist_group(group))


# Compiling takes most of the tests' time; without optimisation it takes half as long.
programs.compile_quickly()
# A slow machine is no failure.
hypothesis.settings.register_profile("ofav2_jax", deadline=None)
hypothesis.settings.load_profile("ofav2_jax")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """A compiled program for a CPU takes hundreds of memory mappings, of which a process may have 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Compiled programs of the runs that tests start as processes: each is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, cache):
    """A whole run: its directory and what it printed."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    status, out, err = runs.finish(runs.launch(workdir, cache))
    assert status == 0, err
    return workdir, out


@pytest.fixture(scope="session")
def killed(tmp_path_factory, cache, uninterrupted):
    """A run that was killed in the middle of its second phase, with a checkpoint after every step."""
    workdir = tmp_path_factory.mktemp("killed")
    process = runs.launch(workdir, cache, "--config.checkpoint.every_s=0")
    # Phase full takes 6 steps, kernel another 3; the start of a phase has a number of its own.
    assert runs.wait_until((workdir / "state" / "9").exists, process)
    runs.kill(process)
    assert not (workdir / "phases" / "01-kernel" / "result.json").exists()
    return workdir
