"""The reduced experiment: its arguments, what it leaves as in the paper, and what it costs."""

import json

import pytest

from configs import reduced
from experiments.arguments import read_arguments
from experiments.config import settings_from_config
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.report.paper import comparable
from ofav2_jax.settings.phases import paper_phases, unlocked_values


def settings_of(arg=None):
    return settings_from_config(reduced.get_config(arg))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("teacher", ["progressive", "fixed"])
def test_any_network_with_either_teacher(network, teacher):
    settings = settings_of(f"network={network},teacher={teacher}")
    assert (settings.network, settings.teacher, settings.name) == (
        network,
        teacher,
        f"reduced-{network}-teacher{teacher}",
    )
    assert (settings.data.num_classes, settings.data.max_test_images, settings.batch_size) == (20, None, 64)
    # Most epochs are where the paper has most of them, and every phase has at least one.
    epochs = {phase.name: phase.epochs for phase in settings.phases}
    assert epochs == {phase.name: max(1, round(0.02 * phase.epochs)) for phase in paper_phases(network)}


def test_what_differs_from_the_paper():
    told = comparable(json.loads(json.dumps(settings_of().as_json())))
    assert told == [
        "20 instead of 200 classes",
        "batches of 64 instead of 200 images",
        "18 instead of 915 epochs",
        "learning rate 0.05 instead of 0.001 in full",
    ]


def test_arguments():
    arguments = ["eps", "--config=reduced:network=se_dp,classes=10,epochs=0.1,wm=1.2", "--config.seed=2"]
    settings = settings_from_config(read_arguments(arguments).config)
    assert (settings.network, settings.data.num_classes, settings.width_multiplier, settings.seed) == (
        "se_dp",
        10,
        1.2,
        2,
    )
    assert settings.name == "reduced-se_dp-classes10-epochs0.1-wm1.2"
    assert [phase.epochs for phase in settings.phases[:2]] == [18, 12]
    assert settings.phases[0].learning_rate == 0.05
    assert settings_of().name == settings_of("network=ee_d").name == "reduced-ee_d"


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("network=ee_x", r"network must be one of ofa_mbv3, .*; did you mean 'ee_[bdp]'\?"),
        ("netwrk=ee_d", r"'netwrk' is unknown; this config takes: network, .*; did you mean 'network'\?"),
        ("classes=1", "classes must be an int of at least 2"),
        ("epochs=0", "epochs must be a number > 0 and <= 1000"),
        ("teacher=none", "teacher must be one of progressive, fixed"),
        ("smoke", "'smoke' is unknown"),
    ],
)
def test_other_arguments_are_refused(arg, message):
    with pytest.raises(ValueError, match=message):
        reduced.get_config(arg)


def test_the_plan_of_half_an_hour():
    settings = settings_of()
    # 500 images a class, of which 15 % are for validation.
    per_epoch = 20 * 425 // settings.batch_size
    steps = {0: 0, 1: 0, 2: 0, 4: 0}
    for phase in settings.phases:
        steps[phase.num_subnets] += per_epoch * phase.total_epochs
    assert steps == {0: 528, 1: 264, 2: 1188, 4: 396}
    # Subnets that differ in height only share a trunk.
    space = SearchSpace(SuperNet(settings.network))
    trunks = 0
    for index in range(len(settings.phases)):
        unlocked = space.restrict(**{**unlocked_values(settings.phases, index), "height": (5,)})
        trunks += len(settings.resolutions) * unlocked.num_uniform
    assert trunks == 228
    validated = sum(phase.total_epochs * (1 if phase.is_full else 2) for phase in settings.phases)
    assert (sum(phase.total_epochs for phase in settings.phases), validated) == (18, 32)
    # Seconds as the config's docstring has them.
    of_step = {0: 0.47, 1: 0.46, 2: 0.60, 4: 0.88}
    training = sum(number * of_step[kind] for kind, number in steps.items())
    assert 0.8 * (training + trunks * 2.45) + 3.1 * validated < 29 * 60
