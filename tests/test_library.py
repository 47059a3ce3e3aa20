"""What users of the library can do beside training: parameters alone, many subnets at once, clear refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.evaluate.evaluator import Score
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.recipe import Recipe

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
    "images of integers": (
        lambda v: ofa.forward(NET, v, IMAGES.astype(np.uint8), FULL, train=True),
        "images are uint8, which is not allowed: normalise them first",
    ),
    "batches of integers": (lambda v: ofa.recalibrate(NET, v, [IMAGES.astype(int)], FULL), "images are int64"),
    "an empty batch among others": (
        lambda v: ofa.recalibrate(NET, v, [IMAGES[:0]], FULL),
        "there must be at least one",
    ),
    "nothing instead of batches": (lambda v: ofa.recalibrate(NET, v, None, FULL), "batches=None is not allowed"),
    "nothing instead of variables": (lambda v: ofa.forward(NET, None, IMAGES, FULL), "variables is a NoneType"),
    "nothing to recalibrate": (
        lambda v: ofa.recalibrate_masked(NET, None, [IMAGES], [FULL]),
        "variables is a NoneType",
    ),
    "no parts": (
        lambda v: ofa.forward(NET, {"params": {}}, IMAGES, FULL, train=True),
        "are not those of network='ee_dp'",
    ),
    "parameters that are none": (lambda v: ofa.sort_channels(NET, {"params": None}, 1), "stem_conv, .* missing"),
    "another network's": (
        lambda v: ofa.forward(
            NET, {"params": {k: x for k, x in v["params"].items() if k != "exit_2"}}, IMAGES, FULL, True
        ),
        r"variables\['params'\] are not those of network='ee_dp': exit_2 missing",
    ),
    "a number of choices": (lambda v: ofa.SearchSpace(NET).restrict(kernel=jnp.int32(5)), "keep at least one value"),
    "weights by no scheme": (lambda v: ofa.exit_weights([1, 2], 2), r"exit weights \[1, 2\] are unknown"),
    "weights for no network": (
        lambda v: ofa.load_torch({}, "ee_d"),
        "net='ee_d' is not allowed: it must be a SuperNet",
    ),
    "nothing to sort the channels of": (
        lambda v: ofa.sort_channels("ee_d", v, 1),
        "net='ee_d' is not allowed: it must be a SuperNet",
    ),
    "a run of no settings": (
        lambda v: ofa.Run({}, None, "unused"),
        r"settings=\{\} is not allowed: it must be a Settings",
    ),
    "a run without data": (
        lambda v: ofa.Run(ofa.Settings.paper("ee_d"), IMAGES, "unused"),
        "dataset=array.* is not allowed: it must be a Dataset",
    ),
    "nothing to sort": (lambda v: ofa.sort_channels(NET, {}, 1), "variables has no params"),
    "parameters to sort": (lambda v: ofa.sort_channels(NET, v["params"], 1), "variables has no params: it must be a"),
    "a name instead of a network": (lambda v: ofa.SearchSpace("ee_d"), "net='ee_d' is not allowed: it must be a"),
    "a square of choices": (
        lambda v: ofa.Subnet(np.full((5, 4), 7), (6,) * 20, (4,) * 5),
        "kernel=array.* is not allowed: it must be a tuple of 20 ints",
    ),
    "too few choices": (
        lambda v: ofa.Subnet(np.full(19, 7), (6,) * 20, (4,) * 5),
        "kernel=array.* is not allowed: it must be a tuple of 20 ints",
    ),
    "no text": (lambda v: ofa.Subnet.parse(None), "subnet=None is not readable"),
    "values that are none": (lambda v: ofa.SearchSpace(NET).restrict(kernel=np.array([])), "keep at least one value"),
    "a kernel that there is not": (
        lambda v: ofa.Subnet((np.int64(4),) * 20, (6,) * 20, (4,) * 5),
        "kernel contains .*4.*, which is not allowed: choose from 3, 5, 7",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_of_the_wrong_kind_are_refused(params, case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        call({"params": params})
    # One line, however large the value.
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_numbers_of_numpy_are_numbers():
    net = ofa.SuperNet("ee_d", np.float32(0.5), np.int64(7))
    assert (net.width_multiplier, net.num_classes) == (0.5, 7) and type(net.num_classes) is int
    assert ofa.count(net, FULL, np.int64(32)) == ofa.count(net, FULL, 32)
    space = ofa.SearchSpace(net).restrict(kernel=np.array([5, 3]), depth={np.int8(2)})
    assert (space.kernel, space.depth) == ((5, 3), (2,))
    assert len(space.sample(jax.random.key(0), np.int64(2))) == 2
    np.testing.assert_array_equal(ofa.exit_weights("unif", np.int64(2)), [0.5, 0.5])


def test_settings_of_numpy_are_plain():
    recipe = Recipe(kd_ratio=np.float32(0.5), exit_weights=np.array([5, 4, 3, 2, 1]))
    resolutions = tuple(np.array([24, 32]))
    settings = ofa.Settings.paper(
        "ee_d", batch_size=np.int64(64), resolutions=resolutions, seed=np.uint8(3), recipe=recipe
    )
    plainly = Recipe(kd_ratio=0.5, exit_weights=(5, 4, 3, 2, 1))
    assert settings == ofa.Settings.paper("ee_d", batch_size=64, resolutions=(24, 32), seed=3, recipe=plainly)
    assert from_nested(ofa.Settings, json.loads(json.dumps(settings.as_json()))) == settings
    assert hash(settings) and "np" not in repr(settings)
    phase = dataclasses.replace(settings.phases[1], epochs=np.int32(2), learning_rate=np.float64(0.1))
    assert type(phase.epochs) is int and type(phase.learning_rate) is float
    with pytest.raises(ValueError, match="batch_size=0 is not allowed: it must be a positive int"):
        ofa.Settings.paper("ee_d", batch_size=np.int64(0))


@pytest.mark.parametrize("kind", [tuple, list, np.array, jnp.array, lambda values: np.array(values, np.int8)])
def test_choices_of_any_kind(kind):
    subnet = ofa.Subnet(kind([5] * 20), kind([4] * 20), kind([4] * 5), height=np.int64(3))
    assert subnet == ofa.Subnet.uniform(kernel=5, expand=4, height=3) and hash(subnet)
    with pytest.raises(ValueError, match="kernel contains 4, which is not allowed: choose from 3, 5, 7"):
        ofa.Subnet(kind([4] * 20), kind([4] * 20), kind([4] * 5))


ROWS = [
    ({"resolution": 32, "kernel": 5, "expand": 4, "depth": 3, "level": 7, "height": 2, "top1": 9.5}, "k5-e4-d3-l7-h2"),
    ({"kernel": 5, "expand": 4, "depth": 3, "level": 7, "height": "ensemble", "macs": 3}, "k5-e4-d3-l7-h5"),
    ({"kernel": [5] * 20, "expand": [4] * 20, "depth": [3] * 5}, "k5-e4-d3-l7-h5"),
    ({"ks": [7, 5] * 10, "e": [6] * 20, "d": [2, 2, 3, 4, 4], "r": 224, "wid": None}, f"k{'75' * 10}-e6-d22344-l7-h5"),
    ({"ks": 7.0, "e": 6.0, "d": [2.0, 2, 3, 4, 4]}, "k7-e6-d22344-l7-h5"),
    ({"kernel": np.full(20, 5), "expand": np.int64(4), "depth": np.array(3), "height": np.int8(1)}, "k5-e4-d3-l7-h1"),
]


@pytest.mark.parametrize(("row", "text"), ROWS)
def test_rows_of_json_are_subnets(row, text):
    subnet = ofa.Subnet.from_json(row)
    assert str(subnet) == text
    assert ofa.Subnet.from_json(json.loads(json.dumps(subnet.as_json()))) == subnet


def test_subnets_come_back_from_json():
    for subnet in ofa.SearchSpace(ofa.SuperNet("ee_dp")).sample(jax.random.key(0), 20):
        assert ofa.Subnet.from_json(json.loads(json.dumps(subnet.as_json()))) == subnet
    assert SMALL.as_json() == {"kernel": 3, "expand": 3, "depth": 2, "level": 6, "height": 2}
    score = Score(SMALL, 32, False, 50.0, 90.0, 50.0, 10, 20)
    assert ofa.Subnet.from_json(score.as_json()) == SMALL


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kernel": 5, "expand": 4}, "depth is missing in the row, which has kernel, expand"),
        ({"kernel": 5, "expand": 4, "depth": 3, "heigth": 2}, r"'heigth' is not a choice .*; did you mean 'height'\?"),
        ({"kernel": 5, "ks": 5, "expand": 4, "depth": 3}, "kernel is there twice"),
        ({"kernel": 4, "expand": 4, "depth": 3}, "kernel contains 4, which is not allowed: choose from 3, 5, 7"),
        ({"kernel": 5.5, "expand": 4, "depth": 3}, "kernel contains 5.5, which is not allowed"),
        ({"kernel": [5] * 19, "expand": 4, "depth": 3}, "kernel=.* it must be a tuple of 20 ints"),
        ({"kernel": 5, "expand": None, "depth": 3}, "expand contains None"),
        ({"kernel": 5, "expand": 4, "depth": 3, "height": "all"}, "height contains 'all'"),
        ([{"kernel": 5}], "it must be a JSON object with the choices of a subnet"),
    ],
)
def test_rows_that_are_no_subnets_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        ofa.Subnet.from_json(row)


def test_integers_of_numpy_are_ints():
    subnet = ofa.Subnet(tuple(np.full(20, 5)), tuple(np.full(20, 4, np.int8)), (4,) * 5, height=np.int64(3))
    assert subnet == ofa.Subnet.uniform(kernel=5, expand=4, height=3)
    assert type(subnet.kernel[0]) is int and type(subnet.height) is int
