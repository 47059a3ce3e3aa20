"""What users of the library can do beside training: parameters alone, many subnets at once, clear refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.model.supernet import variable_shapes

NET = ofa.SuperNet("ee_dp", width_multiplier=0.1, num_classes=5)
IMAGES = np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype(np.float32)
SMALL = ofa.Subnet.uniform(kernel=3, expand=3, depth=2, level=6, height=2)
SUBNETS = [SMALL, ofa.Subnet.uniform(kernel=5, expand=4, depth=3, height=4)]


@pytest.fixture(scope="module")
def params():
    """Parameters alone, none of which is neutral."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) * 0.3 + (path[-1].key == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, variable_shapes(NET)["params"])


def with_neutral_statistics(params):
    stats = variable_shapes(NET)["batch_stats"]
    fill = lambda path, leaf: (jnp.zeros if path[-1].key == "mean" else jnp.ones)(leaf.shape)  # noqa: E731
    return {"params": params, "batch_stats": jax.tree_util.tree_map_with_path(fill, stats)}


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_parameters_alone_can_be_run_and_recalibrated(params):
    whole = with_neutral_statistics(params)
    alone = ofa.forward(NET, {"params": params}, IMAGES, SMALL, train=True)
    np.testing.assert_array_equal(alone, ofa.forward(NET, whole, IMAGES, SMALL, train=True))
    batches = [IMAGES[:4], IMAGES[4:]]
    recalibrated = ofa.recalibrate(NET, {"params": params}, batches, SMALL)
    assert_equal(recalibrated, ofa.recalibrate(NET, whole, batches, SMALL))
    assert np.isfinite(ofa.forward(NET, recalibrated, IMAGES, SMALL)).all()


@pytest.mark.parametrize("width_phase", [1, 2])
def test_parameters_alone_can_be_sorted(params, width_phase):
    ours = jax.jit(lambda p: ofa.sort_channels(NET, {"params": p}, width_phase))(params)
    theirs = jax.jit(lambda v: ofa.sort_channels(NET, v, width_phase))(with_neutral_statistics(params))
    assert set(ours) == {"params"}
    assert_equal(ours["params"], theirs["params"])


def test_many_subnets_are_recalibrated_in_one_program(params):
    batches = [IMAGES[:4], IMAGES[4:]]
    together = ofa.recalibrate_masked(NET, {"params": params}, batches, SUBNETS)
    logits = ofa.forward_masked(NET, together, IMAGES, SUBNETS)
    one = ofa.recalibrate(NET, {"params": params}, batches, SMALL)
    np.testing.assert_allclose(logits[0], ofa.forward(NET, one, IMAGES, SMALL), rtol=1e-3, atol=1e-3)
    assert not np.allclose(logits[0], logits[1], atol=0.1)


FULL = ofa.Subnet.uniform()
REFUSED = {
    "a subnet instead of a list": (lambda v: ofa.forward_masked(NET, v, IMAGES, FULL), "must be a list of Subnets"),
    "texts instead of subnets": (
        lambda v: ofa.forward_masked(NET, v, IMAGES, [str(FULL)]),
        "subnets contains 'k7-e6-d4-l7-h5', which is not allowed: it must be a list of Subnets",
    ),
    "a list instead of a subnet": (lambda v: ofa.forward(NET, v, IMAGES, [FULL]), "is not a Subnet"),
    "a list of images": (
        lambda v: ofa.forward(NET, v, list(IMAGES), FULL),
        r"images is a list, which is not allowed: it must be an array \[B, H, W, 3\]",
    ),
    "no images": (lambda v: ofa.forward(NET, v, IMAGES[:0], FULL), "there must be at least one"),
    "one batch instead of a list": (
        lambda v: ofa.recalibrate(NET, v, IMAGES, FULL),
        r"batches has shape \(6, 16, 16, 3\), which is not allowed: it must be a list of image batches",
    ),
    "no batches": (lambda v: ofa.recalibrate_masked(NET, v, [], [FULL]), "batches is empty"),
    "no statistics": (
        lambda v: ofa.forward(NET, v, IMAGES, FULL),
        "variables has no batch_stats: recalibrate the subnet first, or run it with train=True",
    ),
    "no statistics of many": (lambda v: ofa.forward_masked(NET, v, IMAGES, [FULL]), "variables has no batch_stats"),
    "no parameters": (lambda v: ofa.recalibrate(NET, {}, [IMAGES], FULL), "variables has no params"),
    "parameters instead of variables": (
        lambda v: ofa.forward(NET, v["params"], IMAGES, FULL, train=True),
        "variables has no params: it must be",
    ),
    "an array of choices": (
        lambda v: ofa.Subnet(np.full(20, 7), (6,) * 20, (4,) * 5),
        "kernel=array.* is not allowed: it must be a tuple of 20 ints",
    ),
    "a kernel that there is not": (
        lambda v: ofa.Subnet((np.int64(4),) * 20, (6,) * 20, (4,) * 5),
        "kernel contains .*4.*, which is not allowed: choose from 3, 5, 7",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_of_the_wrong_kind_are_refused(params, case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call({"params": params})


def test_integers_of_numpy_are_ints():
    subnet = ofa.Subnet(tuple(np.full(20, 5)), tuple(np.full(20, 4, np.int8)), (4,) * 5, height=np.int64(3))
    assert subnet == ofa.Subnet.uniform(kernel=5, expand=4, height=3)
    assert type(subnet.kernel[0]) is int and type(subnet.height) is int
