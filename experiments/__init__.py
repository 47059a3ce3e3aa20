"""The commands.

In a clone this is the package `experiments`; where the library is installed it is `ofav2_jax.experiments`, so that
nothing of such a general name is installed. Hence the modules in here import each other relatively.
"""

from .shipped import provide_configs

# Before any module in here imports `configs.common`.
provide_configs()
