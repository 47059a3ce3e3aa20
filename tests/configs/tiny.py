"""Every phase of the baseline in seconds: one subnet a batch, one resolution, three steps an epoch."""

from configs.common import base_config, parse_arguments


def get_config(arg=None):
    parse_arguments(arg, {})
    config = base_config("ofa_mbv3")
    config.name = "tiny"
    config.width_multiplier = 0.1
    config.resolutions = (16,)
    config.batch_size = 400
    config.data.dataset = "digits"
    config.data.base_resolution = 8
    config.data.flip = False
    for phase in config.phases.values():
        phase.update(epochs=1, warmup_epochs=0, num_subnets=1, learning_rate=0.01)
    config.phases.full.update(num_subnets=0, epochs=2)
    config.evaluation.recalibration_images = 100
    config.evaluation.batch_size = 200
    return config
