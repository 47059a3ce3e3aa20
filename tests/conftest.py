"""Four virtual CPU devices, and programs compiled without optimisation, for every test."""

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
