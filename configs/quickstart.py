"""EE_D through all of its phases on 1,797 real handwritten digits, in minutes.

    python -m experiments.eps --config=configs/quickstart.py

Expected: see the README.
"""

from configs.common import base_config, parse_arguments


def get_config(arg=None):
    parse_arguments(arg, {})
    config = base_config("ee_d")
    config.name = "quickstart"
    config.width_multiplier = 0.5
    config.resolutions = (24, 32)
    config.batch_size = 64
    config.data.dataset = "digits"
    config.data.base_resolution = 8
    config.data.flip = False

    def phase(name, learning_rate, epochs, num_subnets):
        config.phases[name].update(learning_rate=learning_rate, epochs=epochs, warmup_epochs=0, num_subnets=num_subnets)

    phase("full", 0.05, 10, 0)
    for name in ("kernel", "height_1", "height_2", "height_3", "depth_1", "depth_2", "width_1"):
        phase(name, 0.03, 2, 2)
    for name in ("height_4", "width_2"):
        phase(name, 0.05, 4, 2)

    config.evaluation.recalibration_images = 200
    config.evaluation.recalibration_batch_size = 100
    config.evaluation.batch_size = 180
    config.evaluation.subnets_per_pass = 2
    return config
