"""Four virtual CPU devices, programs compiled without optimisation and not kept beyond a module, for every test."""

import jax
import pytest

from ofav2_jax import programs

jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(autouse=True, scope="session")
def _compile_quickly():
    """Compiling takes most of the tests' time; without optimisation it takes half as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "compiler_options", programs.quick_compiler_options)
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """A compiled program for a CPU takes hundreds of memory mappings, of which a process may have 65,530."""
    yield
    jax.clear_caches()
