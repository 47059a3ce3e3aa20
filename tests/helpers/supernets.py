"""Directories of finished runs that nobody trained: of a supernet, and of a design that was fine-tuned."""

from ofav2_jax import Settings, SuperNet
from ofav2_jax.data.dataset import fingerprint
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run.store import Store
from ofav2_jax.settings.finetuning import Finetuning
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.recipe import Augmentation, Evaluation, Recipe
from ofav2_jax.settings.settings import DataSettings
from tests.helpers.networks import random_variables


def settings(network="ee_d", phases=("full",), resolutions=(8, 16), interpolate=False):
    """Settings of a run on the digits."""
    return Settings(
        name="untrained",
        network=network,
        phases=tuple(phase for phase in paper_phases(network) if phase.name in phases),
        width_multiplier=0.1,
        resolutions=resolutions,
        batch_size=200,
        dtype="float32",
        data=DataSettings(dataset="digits", base_resolution=8),
        recipe=Recipe(augmentation=Augmentation(flip=False)),
        evaluation=Evaluation(100, 100, 120, 1, interpolate=interpolate),
    )


def write_supernet(directory, params=None, ended=1, **changes):
    """Writes the directory, in which the first `ended` phases have ended with the same parameters."""
    of_run = settings(**changes)
    store = Store(directory, of_run, fingerprint(load_digits(of_run.seed)))
    net = SuperNet(of_run.network, of_run.width_multiplier, 10)
    params = random_variables(net)["params"] if params is None else params
    for index, phase in enumerate(of_run.phases[:ended]):
        store.save_phase(index, params, {"name": phase.name, "avg": 10.0, "best": 10.0, "subnets": []})
    store.release()
    return directory


def write_tuned(directory, design):
    """Writes the directory of a run that fine-tuned a design, given as text."""
    of_run = Finetuning().settings(settings(), design, 16, "0" * 64)
    store = Store(directory, of_run, fingerprint(load_digits(of_run.seed)))
    params = random_variables(SuperNet(of_run.network, of_run.width_multiplier, 10))["params"]
    store.save_phase(0, params, {"name": "finetune", "avg": 10.0, "best": 10.0, "subnets": []})
    store.release()
    return directory
