"""The sandwich rule: the largest subnet, the smallest, and random ones."""

import json

import jax
import numpy as np
import pytest

from configs import reduced
from configs.common import paper_config
from experiments.config import settings_from_config
from ofav2_jax import SearchSpace, Settings, SuperNet
from ofav2_jax.data.digits import load_digits
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.report.paper import comparable
from ofav2_jax.run.assembly import assemble
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.phases import unlocked_values
from ofav2_jax.train.engines import ENGINES, MaskedEngine, StaticEngine


@pytest.mark.parametrize("engine", [MaskedEngine, StaticEngine])
@pytest.mark.parametrize("network", ["ee_dp", "ofa_mbv3"])
def test_the_largest_the_smallest_and_random_ones(engine, network):
    settings = Settings.paper(network)
    for index in (1, len(settings.phases) - 1):
        space = SearchSpace(SuperNet(network)).restrict(**unlocked_values(settings.phases, index))
        key = jax.random.key(5)
        subnets = engine(None, 4, "sandwich").draw(key, space, 4).subnets()
        assert subnets[:2] == [space.maximal(), space.minimal()]
        # The others are those that are drawn anyway.
        assert subnets[2:] == engine(None, 4).draw(key, space, 4).subnets()[2:]
        assert all(space.contains(subnet) for subnet in subnets)


def test_several_steps_draw_what_single_ones_draw():
    space = SearchSpace(SuperNet("ee_d"))
    engine, keys = MaskedEngine(None, 3, "sandwich"), jax.random.split(jax.random.key(1), 2)
    several = engine.draw(keys, space, 3)
    for step, key in enumerate(keys):
        single = engine.draw(key, space, 3)
        jax.tree.map(
            lambda all_of_them, one, step=step: np.testing.assert_array_equal(all_of_them[step], one), several, single
        )
        assert single.subnets()[1] == space.minimal()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sampling", ["random", "sandwich"])
def test_a_run_samples_as_its_settings_say(engine, sampling):
    config = paper_config("ofa_mbv3", "sandwich")
    config.update(sampling=sampling, engine=engine, resolutions=(8,), batch_size=8)
    parts = assemble(settings_from_config(config), load_digits(0), jax.devices()[:1])
    drawn = parts.engine.draw(jax.random.key(0), parts.space, 3).subnets()
    ends = [parts.space.maximal(), parts.space.minimal()]
    assert (drawn[:2] == ends) is (sampling == "sandwich")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_argument_of_the_configs(network):
    settings = settings_from_config(paper_config(network, "sandwich"))
    assert settings.sampling == "sandwich"
    usual = {phase.name: phase.num_subnets for phase in Settings.paper(network).phases}
    assert {p.name: p.num_subnets for p in settings.phases} == {n: k and max(k, 3) for n, k in usual.items()}
    assert Settings.paper(network).sampling == "random"
    told = comparable(json.loads(json.dumps(settings.as_json())))
    assert "sandwich instead of random sampling" in told
    assert settings_from_config(paper_config(network, "sandwich,smoke")).phases[1].num_subnets == 3
    assert settings_from_config(reduced.get_config(f"network={network},sandwich")).sampling == "sandwich"


def test_settings_of_older_runs_sampled_at_random():
    older = json.loads(json.dumps(Settings.paper("ee_d").as_json()))
    del older["sampling"]
    assert from_nested(Settings, older) == Settings.paper("ee_d") and comparable(older) == []


def test_fewer_than_three_subnets_are_refused():
    message = (
        r"phases.kernel.num_subnets=1 is not allowed: it must be at least 3: the largest, the smallest and a random"
    )
    with pytest.raises(ValueError, match=message):
        Settings.paper("ee_d", sampling="sandwich")
    with pytest.raises(ValueError, match=r"sampling='sandwhich' is not allowed: .* did you mean 'sandwich'\?"):
        Settings.paper("ee_d", sampling="sandwhich")
