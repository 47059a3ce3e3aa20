"""Runs `experiments.eps` with programs compiled without optimisation, for tests that start it many times."""

import sys

from experiments import eps
from ofav2_jax.runtime import programs

if __name__ == "__main__":
    programs.compile_quickly()
    eps.launch(sys.argv)
