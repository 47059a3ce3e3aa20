"""Parameters as vectors: no parameter is lost, weight decay acts on the right ones, the logits are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import Subnet, SuperNet
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.packing import DECAYED, OTHERS, Packing, decayed
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.run.assembly import initial_params
from tests.helpers.programs import quick_jit

# A network that has every kind of parameter.
NET = SuperNet("se_dp", width_multiplier=0.1, num_classes=7)
SHAPES = variable_shapes(NET)["params"]
PACKING = Packing(SHAPES)
ODD = Subnet(kernel=(3, 5, 7, 7) * 5, expand=(6, 3, 4, 6) * 5, depth=(2, 3, 4, 3, 2), level=(7, 4, 6, 5) * 5)


def numbered():
    """Parameters in which each number occurs only once."""
    leaves, structure = jax.tree.flatten(SHAPES)
    ends = np.cumsum([leaf.size for leaf in leaves])
    values = [jnp.arange(end - leaf.size, end).reshape(leaf.shape) for leaf, end in zip(leaves, ends)]
    return structure.unflatten(values)


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_unpacking_gives_back_what_was_packed():
    vectors = quick_jit(PACKING.pack)(numbered())
    assert {name: vector.ndim for name, vector in vectors.items()} == {DECAYED: 1, OTHERS: 1}
    assert_equal(quick_jit(PACKING.unpack)(vectors), numbered())


def test_batch_norm_and_biases_are_not_decayed():
    vectors = quick_jit(PACKING.pack)(numbered())
    wanted = {True: [], False: []}
    for path, leaf in jax.tree_util.tree_leaves_with_path(numbered()):
        assert path[-1].key in ("kernel", "matrix_7to5", "matrix_5to3", "scale", "bias")
        wanted[path[-1].key not in ("scale", "bias")].extend(np.ravel(leaf))
    for name, decays in ((DECAYED, True), (OTHERS, False)):
        np.testing.assert_array_equal(np.sort(vectors[name]), np.sort(wanted[decays]))


def test_decayed_says_it_by_name():
    paths = jax.tree_util.tree_leaves_with_path(decayed(SHAPES))
    assert {path[-1].key for path, decays in paths if not decays} == {"scale", "bias"}


# Trajectories, which never leave the packed form, show the same for a whole network within 1e-9.
@pytest.mark.slow
def test_masked_network_and_gradients_are_those_of_the_tree():
    net = NET.clone(dtype=jnp.float64)
    choices = Choices.stack([ODD, Subnet.uniform(depth=3)])

    def loss(params, unpack_level=None):
        logits = net.apply({"params": params}, images, choices, train=True, unpack_level=unpack_level)
        return jnp.mean(jnp.square(logits)), logits

    def of_vectors(vectors):
        return loss(PACKING.unpack_to_rows(vectors), PACKING.unpack_level)

    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.array(p, jnp.float64), initial_params(NET, 0))
        images = jax.random.normal(jax.random.key(1), (6, 32, 32, 3), jnp.float64)
        grads, logits = quick_jit(jax.grad(loss, has_aux=True))(params)
        packed_grads, packed_logits = quick_jit(jax.grad(of_vectors, has_aux=True))(quick_jit(PACKING.pack)(params))
        np.testing.assert_allclose(packed_logits, logits, rtol=1e-12)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(packed_grads))
        for name, ours in quick_jit(PACKING.pack)(grads).items():
            np.testing.assert_allclose(packed_grads[name], ours, rtol=1e-9, atol=1e-12)
