"""The optimiser step: against the reference's SGD, with both engines, on any number of devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import SearchSpace, Settings, Subnet, SuperNet
from ofav2_jax.data.digits import load_digits
from ofav2_jax.model.packing import DECAYED, OTHERS
from ofav2_jax.run.assembly import assemble, initial_params
from ofav2_jax.runtime.feed import StreamedImages
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.settings.recipe import Augmentation, Recipe
from ofav2_jax.train.engines import ENGINES
from ofav2_jax.train.optimizer import init_state, update
from tests.helpers import recorded
from tests.helpers.programs import quick_jit
from tests.helpers.steps import inputs_of

RATE = 1e-3
RESOLUTION = 32
NET = SuperNet("ee_d", width_multiplier=0.1, num_classes=10)
RECIPE = Recipe(augmentation=Augmentation(flip=False))
SGD = recorded.load("sgd")


@pytest.mark.parametrize("case", ["grads_always", "grad_zero_at_step_2"])
def test_sgd_matches_the_reference(case):
    rates = next(c["lrs"] for c in SGD.json["cases"] if c["id"] == case)
    arrays = {name.split("/")[1]: value for name, value in SGD.arrays.items() if name.startswith(f"{case}/")}
    state = init_state(RECIPE, {DECAYED: jnp.asarray(arrays["w0"]), OTHERS: jnp.asarray(arrays["b0"])})
    for step, rate in enumerate(rates):
        grads = {DECAYED: arrays[f"gw{step}"], OTHERS: arrays[f"gb{step}"]}
        state = update(RECIPE, state, grads, jnp.float32(rate))
        np.testing.assert_allclose(state.params[DECAYED], arrays[f"w{step + 1}"], rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(state.params[OTHERS], arrays[f"b{step + 1}"], rtol=2e-6, atol=1e-7)


@functools.cache
def params(seed):
    return initial_params(NET, seed)


class Setting:
    """A supernet, data and a teacher on some devices."""

    def __init__(self, num_devices, dtype=jnp.float32, streamed=False, engine="masked", activations=None):
        settings = Settings.paper("ee_d", batch_size=32, resolutions=(RESOLUTION,), engine=engine, recipe=RECIPE)
        devices = jax.devices()[:num_devices]
        net = NET.clone(dtype=activations or dtype)
        self.parts = parts = assemble(settings, load_digits(seed=0), devices, net=net)
        if streamed:
            self.parts = dataclasses.replace(parts, feed=StreamedImages(parts.dataset, devices))
        # The parameters are copied, because a step donates its state.
        start = jax.tree.map(lambda p: jnp.array(p, dtype), params(seed=0))
        self.state = replicate(parts.step.init_state(start), devices)
        self.teacher = replicate(jax.tree.map(lambda p: jnp.array(p, dtype), params(seed=1)), devices)

    def params(self):
        return jax.device_get(quick_jit(self.parts.step.packing.unpack)(self.state.params))

    def train(self, subnets_of_step):
        losses = []
        for step, subnets in enumerate(subnets_of_step):
            key = jax.random.fold_in(jax.random.key(5), step)
            inputs = inputs_of(self.parts, 16 * step, 32, key, RATE, subnets, self.teacher)
            self.state, metrics = self.parts.engine(self.state, inputs, RESOLUTION)
            losses.append(np.asarray(metrics["loss"]))
        return self.params(), losses

    def train_full(self, num_steps):
        return self.train([None] * num_steps)[0]


def assert_same(ours, theirs, tolerance):
    for (path, a), (_, b) in zip(*(jax.tree_util.tree_leaves_with_path(tree) for tree in (ours, theirs))):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


LARGE, SMALL = Subnet.uniform(), Subnet.uniform(kernel=3, expand=3, depth=2, height=2)


# In float64, because in float32 a sum in another order moves one of so few activations across the kink of a ReLU, and
# a gradient of 32 images over a few pixels shows that. Images are augmented in float32 all the same: hence 1e-7.
def test_engines_train_the_same_parameters():
    subnets = [[LARGE, SMALL], [SMALL, SMALL], [SMALL, LARGE]]
    with jax.enable_x64(True):
        masked, masked_losses = Setting(1, jnp.float64).train(subnets)
        static, static_losses = Setting(1, jnp.float64, engine="static").train(subnets)
    np.testing.assert_allclose(masked_losses, static_losses, rtol=1e-7)
    assert_same(masked, static, 1e-7)
    moved = jax.tree.map(lambda a, b: bool(np.abs(a - b).max() > 1e-4), masked, jax.device_get(params(seed=0)))
    assert (
        moved["exit_2"]["classifier"]["kernel"]
        and moved["stage_1"]["level_1"]["inverted_bottleneck"]["expand"]["kernel"]
    )


def test_phase_full_does_not_depend_on_the_number_of_devices():
    # test_devices.py compares steps of sampled subnets on four devices, of two processes, with those on one.
    with jax.enable_x64(True):
        one, four = (Setting(num_devices, jnp.float64).train_full(5) for num_devices in (1, 4))
    assert_same(one, four, 1e-7)


def test_streamed_images_train_the_same_parameters():
    subnets = [[LARGE, SMALL], [SMALL, LARGE]]
    (resident, losses), (streamed, streamed_losses) = (
        Setting(2, streamed=streamed).train(subnets) for streamed in (False, True)
    )
    np.testing.assert_array_equal(losses, streamed_losses)
    assert_same(resident, streamed, 0)


def test_bfloat16_changes_activations_only():
    subnets = [[LARGE, SMALL], [SMALL, LARGE]]
    narrow, wide = Setting(1, activations=jnp.bfloat16), Setting(1)
    ours, losses = narrow.train(subnets)
    _, wide_losses = wide.train(subnets)
    assert {leaf.dtype for leaf in jax.tree.leaves((ours, narrow.state.opt_state))} == {np.dtype(np.float32)}
    np.testing.assert_allclose(losses, wide_losses, rtol=0.02)
    assert not np.array_equal(losses, wide_losses)


@pytest.mark.parametrize("engine", ENGINES)
def test_draws_are_in_the_space_and_reproducible(engine):
    space = SearchSpace(NET).restrict(kernel=(5, 3), height=(4, 3))
    draw = Setting(1, engine=engine).parts.engine.draw
    drawn = draw(jax.random.key(3), space, 50).subnets()
    assert drawn == draw(jax.random.key(3), space, 50).subnets()
    assert drawn != draw(jax.random.key(4), space, 50).subnets()
    assert all(space.contains(subnet) for subnet in drawn)
    assert {s.height for s in drawn} == {4, 3}
    assert all(len(set(s.kernel)) == 1 for s in drawn) == (engine == "static")
