"""Directories of finished runs whose supernets have early exits and random weights, written without training."""

import ofav2_jax as ofa
from configs.common import base_config
from experiments.config import settings_from_config
from ofav2_jax import files
from ofav2_jax.data.dataset import fingerprint
from ofav2_jax.run import checkpoint
from tests.helpers.networks import random_variables

RESOLUTION = 16


def write_finished(directory, seed=0):
    """Writes a finished run of phase full alone, of EE_D on the digits."""
    config = base_config("ee_d")
    config.update(name="finished", width_multiplier=0.1, resolutions=(RESOLUTION,), batch_size=400)
    config.data.update(dataset="digits", base_resolution=8, flip=False)
    for name in set(config.phases) - {"full"}:
        del config.phases[name]
    config.evaluation.update(recalibration_images=100, batch_size=200)
    settings, dataset = settings_from_config(config), ofa.load_dataset("digits")
    files.write_json(directory / files.SETTINGS, settings.as_json())
    files.write_json(directory / files.DATA, fingerprint(dataset))
    phase = files.phase_directory(directory, 0, settings.phases[0].name)
    files.write_json(phase / files.PHASE_RESULT, {"name": settings.phases[0].name, "subnets": []})
    net = ofa.SuperNet("ee_d", 0.1, dataset.num_classes)
    checkpoint.save_tree(phase / files.PHASE_PARAMS, random_variables(net, seed)["params"])
    return directory
