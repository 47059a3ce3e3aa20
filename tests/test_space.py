"""Subnets, and the spaces from which they are drawn."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofav2_jax import Choices, SearchSpace, Subnet, SuperNet
from ofav2_jax.model.network import CHOICES, NETWORKS

VALUES = {name: choice.values for name, choice in CHOICES.items()}


def values(name, count):
    one = st.sampled_from(VALUES[name])
    return st.one_of(one.map(lambda value: (value,) * count), st.tuples(*[one] * count))


subnets = st.builds(
    Subnet,
    kernel=values("kernel", 20),
    expand=values("expand", 20),
    depth=values("depth", 5),
    level=values("level", 20),
    height=st.sampled_from(VALUES["height"]),
)
networks = st.sampled_from(sorted(NETWORKS))


def space_of(network):
    return SearchSpace(SuperNet(network))


# --- one subnet -----------------------------------------------------------------------------------------------


@given(subnets)
def test_text_and_arrays_give_the_same_subnet_back(subnet):
    assert Subnet.parse(str(subnet)) == subnet
    assert hash(Subnet.parse(str(subnet))) == hash(subnet)
    assert Choices.stack([subnet, Subnet.uniform()]).subnets() == [subnet, Subnet.uniform()]


@given(subnets, st.integers(0, 4), st.integers(0, 3))
def test_choices_are_stage_major(subnet, stage, level):
    expected = [(subnet.kernel[4 * stage + level], subnet.expand[4 * stage + level], subnet.level[4 * stage + level])]
    assert [subnet.at(stage, level)] == expected
    assert np.ravel(Choices.stack([subnet]).at(stage, level)).tolist() == list(expected[0])


def test_text_is_short_where_choices_repeat():
    assert str(Subnet.uniform()) == "k7-e6-d4-l7-h5"
    mixed = Subnet((7,) * 19 + (3,), (6,) * 20, (4, 3, 2, 2, 2))
    assert str(mixed) == "k77777777777777777773-e6-d43222-l7-h5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": (7,) * 19}, r"kernel=.* is not allowed: it must be a tuple of 20 ints"),
        ({"kernel": 7}, r"kernel=.* is not allowed: it must be a tuple of 20 ints"),
        ({"kernel": (7,) * 19 + (4,)}, "kernel contains 4, which is not allowed: choose from 3, 5, 7"),
        ({"expand": (6,) * 19 + (5,)}, "expand contains 5, which is not allowed: choose from 3, 4, 6"),
        ({"expand": (6.0,) * 20}, r"expand contains 6\.0, which is not allowed"),
        ({"depth": (4,) * 20}, r"depth=.* is not allowed: it must be a tuple of 5 ints"),
        ({"depth": (4, 4, 4, 4, 1)}, "depth contains 1, which is not allowed: choose from 2, 3, 4"),
        ({"level": (0,) * 20}, "level contains 0, which is not allowed: choose from 1, 2, 3, 4, 5, 6, 7"),
        ({"level": (True,) * 20}, "level contains True, which is not allowed"),
        ({"height": 0}, "height contains 0, which is not allowed: choose from 1, 2, 3, 4, 5"),
        ({"height": "5"}, "height contains '5', which is not allowed"),
    ],
)
def test_bad_subnets(change, message):
    with pytest.raises(ValueError, match=message):
        Subnet(**{"kernel": (7,) * 20, "expand": (6,) * 20, "depth": (4,) * 5, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "subnet='' is not readable; write it like k7-e6-d4-l7-h5"),
        ("k7-e6-d4-l7", "is not readable"),
        ("k7-e6-d4-l7-h5 ", "is not readable"),
        ("k9-e6-d4-l7-h5", "kernel contains 9"),
        ("k77-e6-d4-l7-h5", "kernel=.* must be a tuple of 20 ints"),
        ("k7-e6-d4-l7-h6", "height contains 6"),
    ],
)
def test_unreadable_text(text, message):
    with pytest.raises(ValueError, match=message):
        Subnet.parse(text)


# --- spaces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_elastic_in_a_network(network):
    space, spec = space_of(network), NETWORKS[network]
    assert (space.kernel, space.expand, space.depth) == ((7, 5, 3), (6, 4, 3), (4, 3, 2))
    assert space.level == ((7, 6, 5, 3, 4, 2, 1) if spec.parallel else (7,))
    assert space.height == ((5, 4, 3, 2, 1) if spec.early_exits else (5,))
    assert space.maximal() == Subnet.uniform()
    assert space.contains(space.minimal())


@settings(max_examples=200)
@given(subnets, networks)
def test_contains_exactly_what_the_network_can_do(subnet, network):
    spec = NETWORKS[network]
    possible = (spec.parallel or set(subnet.level) == {7}) and (spec.early_exits or subnet.height == 5)
    assert space_of(network).contains(subnet) == possible


# Numbers of subnets for a single resolution; the paper's Tables IV and V count three resolutions.
@pytest.mark.parametrize(
    ("network", "restriction", "size"),
    [
        ("ofa_mbv3", {}, 27),
        ("ee_b", {"height": (5, 4, 3), "expand": (6,), "depth": (4,)}, 27 // 3),
        ("ee_d", {}, 405 // 3),
        ("ee_dp", {}, 2835 // 3),
        ("ee_dp", {"kernel": (7,), "expand": (6,), "depth": (4,), "level": (7,), "height": (5,)}, 1),
    ],
)
def test_uniform_subnets(network, restriction, size):
    space = space_of(network).restrict(**restriction)
    listed = list(space.uniform_subnets())
    assert len(listed) == len(set(listed)) == space.num_uniform == size
    assert all(space.contains(subnet) for subnet in listed)
    assert listed[0] == space.maximal()
    assert listed[-1] == space.minimal()
    assert all(len(set(subnet.kernel)) == len(set(subnet.depth)) == 1 for subnet in listed)


@pytest.mark.parametrize("network", ["ofa_mbv3", "ee_dp"])
def test_samples_are_in_the_space_and_repeatable(network):
    space = space_of(network).restrict(kernel=(7, 3), depth=(3, 2))
    drawn = space.sample(jax.random.key(0), 50)
    assert len(drawn) == 50
    assert all(space.contains(subnet) for subnet in drawn)
    assert space.sample(jax.random.key(0), 50) == drawn
    assert space.sample(jax.random.key(1), 50) != drawn


def test_samples_are_uniform_and_independent():
    drawn = space_of("ee_dp").sample(jax.random.key(2), 2000)
    for name, allowed in VALUES.items():
        rows = np.array([np.atleast_1d(getattr(subnet, name)) for subnet in drawn])
        for position in range(rows.shape[1]):
            counts = np.array([np.sum(rows[:, position] == value) for value in allowed])
            expected = len(rows) / len(allowed)
            # The tolerance is six standard deviations: a wrong distribution fails, a chance deviation does not.
            assert np.all(np.abs(counts - expected) < 6 * np.sqrt(expected)), (name, position, counts)
        if rows.shape[1] > 1:
            equal = np.mean(rows[:, 0] == rows[:, 1])
            assert equal == pytest.approx(1 / len(allowed), abs=0.07), f"{name} repeats from level to level"


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_bad_number_of_samples(n):
    with pytest.raises(ValueError, match="must be a positive int"):
        space_of("ee_b").sample(jax.random.key(0), n)


@pytest.mark.parametrize(
    ("restriction", "message"),
    [
        ({"colour": (1,)}, "choice 'colour' is unknown; choose from kernel, expand, depth, level, height"),
        ({"kernel": ()}, r"kernel=\(\) is not allowed: keep at least one value"),
        ({"kernel": (7, 4)}, r"kernel=4 is outside the space: choose from \(7, 5, 3\)"),
        ({"height": (4,)}, r"height=4 is outside the space: choose from \(5,\)"),
    ],
)
def test_bad_restrictions(restriction, message):
    with pytest.raises(ValueError, match=message):
        space_of("se_p").restrict(**restriction)


def test_restrictions_only_narrow():
    narrow = space_of("ee_b").restrict(kernel=(3, 7))
    assert narrow.kernel == (7, 3)
    assert narrow != space_of("ee_b")
    assert space_of("ee_b").kernel == (7, 5, 3)
    with pytest.raises(ValueError, match="kernel=5 is outside the space"):
        narrow.restrict(kernel=(5,))
    with pytest.raises(ValueError, match="kernel=5 is outside the space"):
        narrow.check(Subnet.uniform(kernel=5))


def test_only_subnets_are_checked():
    with pytest.raises(ValueError, match="is not a Subnet"):
        space_of("ee_b").check("k7-e6-d4-l7-h5")
