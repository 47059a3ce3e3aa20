"""EE_D through all of its phases on 1,797 real handwritten digits, in minutes.

    python -m experiments.eps --config=configs/quickstart.py
    ofav2 eps --config=quickstart

Hardware   2 CPU cores (with AVX-512, for the figures below).
Time       measured: 3 min 19 s with an empty cache of programs, 1 min 55 s with a full one (benchmarks/README.md).
Expected   measured: 94.61 / 98.33 %, mean / best test top-1 of 270 subnets after the last phase; on two other
           processors, which round otherwise, 94.70 / 98.61 and 94.75 / 98.05 %.
"""

from configs.common import base_config, parse_arguments


def get_config(arg=None):
    parse_arguments(arg, {})
    config = base_config("ee_d")
    config.name = "quickstart"
    config.width_multiplier = 0.6
    config.resolutions = (24, 32)
    config.batch_size = 64
    config.data.dataset = "digits"
    config.data.base_resolution = 8
    config.data.flip = False

    def phase(name, learning_rate, epochs, num_subnets):
        config.phases[name].update(learning_rate=learning_rate, epochs=epochs, warmup_epochs=0, num_subnets=num_subnets)

    # Each phase continues where the one before it ended: most of the training goes into the first and the last.
    phase("full", 0.05, 9, 0)
    for name in ("kernel", "height_1", "height_2", "height_3", "depth_1", "depth_2", "width_1"):
        phase(name, 0.02, 1, 2)
    phase("height_4", 0.04, 2, 2)
    phase("width_2", 0.04, 7, 2)
    # A network this narrow has no units to spare.
    config.recipe.dropout_full = 0.0
    config.recipe.dropout_rate = 0.0

    config.evaluation.recalibration_images = 200
    config.evaluation.recalibration_batch_size = 100
    config.evaluation.batch_size = 120
    config.evaluation.subnets_per_pass = 2
    return config
