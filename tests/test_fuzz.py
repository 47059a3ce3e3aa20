"""Random input is either understood or refused with a ValueError."""

import contextlib
import io
import itertools
import math
from unittest import mock

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import quickstart
from configs.common import base_config, paper_config
from experiments import eps
from experiments.arguments import Arguments, field_names
from experiments.config import settings_from_config
from ofav2_jax import Subnet
from ofav2_jax.model.network import CHOICES
from ofav2_jax.settings.settings import Settings
from tests.test_space import networks, space_of, subnets

VALUES = {name: choice.values for name, choice in CHOICES.items()}

# The examples are the same in every run, so that a failure elsewhere can be reproduced here.
fuzz = settings(derandomize=True, deadline=None, max_examples=200)

# Numbers at the edges of what is allowed: no float holds 10**400, and 1e308 times an ordinary number overflows.
edges = st.sampled_from([2**32, 10**400, 1e308, float("nan"), float("inf"), 0, 0.5, 1, 8, 64])
numbers = st.one_of(edges, edges, st.integers(-2, 9), st.integers(), st.floats())
# Texts that a config might hold, names of choices among them.
words = st.one_of(
    st.text(max_size=8), st.sampled_from(["ee_d", "ofa_mbv3", "static", "fixed", "desc", "digits", "mix"])
)
keys = st.sampled_from(["epochs", "batch_size", "full", "a", "two words"])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.lists(inner, max_size=5).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw, texts):
    """Texts in which a few characters were replaced."""
    text = draw(texts)
    first, last = sorted(draw(st.integers(0, len(text))) for _ in range(2))
    return text[:first] + draw(st.text(max_size=3)) + text[min(last, first + 3) :]


def refused(function, *args, **kwargs):
    """Returns a function's result, or None if the function refuses its arguments in one line."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        assert str(error)
        assert len(" ".join(str(error).split()).splitlines()) == 1
        return None


# --- subnets and spaces ------------------------------------------------------------------------------------------

digits = st.from_regex(r"k\d{1,21}-e\d{1,21}-d\d{1,6}-l\d{1,21}-h\d", fullmatch=True)


# Digits of other scripts are in the alphabet, because int() reads them too.
foreign = st.builds(str.replace, subnets.map(str), st.sampled_from("34567"), st.characters(categories=["Nd"]))


@fuzz
@given(st.one_of(st.text(), digits, damaged(subnets.map(str)), foreign))
def test_text_is_a_subnet_or_refused(text):
    subnet = refused(Subnet.parse, text)
    if subnet is not None:
        assert text.isascii()
        assert Subnet.parse(str(subnet)) == subnet


@fuzz
@given(subnets, st.dictionaries(st.sampled_from(list(CHOICES)), values, min_size=1, max_size=2))
def test_values_are_a_subnet_or_refused(subnet, changed):
    subnet = refused(Subnet, **({name: getattr(subnet, name) for name in CHOICES} | changed))
    if subnet is not None:
        assert Subnet.parse(str(subnet)) == subnet
        assert space_of("ee_dp").contains(subnet)


anything = st.dictionaries(st.one_of(st.sampled_from(list(CHOICES)), st.text(max_size=3)), values, max_size=2)
allowed_values = {name: st.sets(st.sampled_from(allowed), min_size=1) for name, allowed in VALUES.items()}
# 7.0 is equal to 7 but is not allowed as a kernel size.
equal_values = {
    name: st.lists(st.sampled_from([*allowed, float(allowed[0])]), min_size=1, max_size=2)
    for name, allowed in VALUES.items()
}
restrictions = st.one_of(
    anything, *(st.fixed_dictionaries({}, optional=optional) for optional in (allowed_values, equal_values))
)


@fuzz
@given(networks, restrictions, st.integers(0, 2**32 - 1))
def test_restrictions_are_a_part_of_the_space_or_refused(network, restriction, seed):
    whole = space_of(network)
    part = refused(whole.restrict, **restriction)
    if part is None:
        return
    assert all(type(value) is int for remaining in restriction.values() for value in remaining)
    for name in CHOICES:
        remaining = restriction.get(name, getattr(whole, name))
        assert getattr(part, name) == tuple(value for value in getattr(whole, name) if value in remaining) != ()
    listed = list(itertools.islice(part.uniform_subnets(), 30))
    assert len(listed) == min(30, part.num_uniform)
    for subnet in [*part.sample(jax.random.key(seed), 3), *listed, part.maximal(), part.minimal()]:
        assert part.contains(subnet) and whole.contains(subnet)


# --- configs -----------------------------------------------------------------------------------------------------

argument_names = st.sampled_from(["wm", "teacher", "epochs", "epochs", "classes", "settings", "sandwich", "smoke"])
argument_values = st.one_of(st.sampled_from(["", "1.0", "1.2", "fixed", "0.1", "20"]), numbers.map(str))
some_arguments = st.lists(
    st.one_of(st.text(max_size=5), argument_names, st.tuples(argument_names, argument_values).map("=".join)), max_size=2
).map(",".join)


@fuzz
@given(networks, st.one_of(st.none(), st.text(), some_arguments, damaged(some_arguments)))
def test_arguments_of_a_config_are_settings_or_refused(network, arg):
    config = refused(paper_config, network, arg)
    if config is not None:
        run = refused(settings_from_config, config)
        # Only the name can be wrong: it contains the text of the arguments.
        assert isinstance(run, Settings) or not config.name.isprintable()


class Loading(Exception):
    """Is raised where the program would load the data set."""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("workdir"))


def accepted(*argv):
    """Whether the program accepts a command line; if not, it says so in one line and returns 2."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            mock.patch.object(eps, "load_dataset", side_effect=Loading),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = eps.main(["eps", *argv])
    except Loading:
        return True
    assert status == 2 and not out.getvalue()
    assert err.getvalue().startswith("error: ") and len(err.getvalue().splitlines()) == 1
    return False


base = base_config("ee_d")
sections = sorted(name for name in base if isinstance(base[name], type(base)))
fields = st.sampled_from([*sections, "phases.full", *field_names(base)])


@settings(fuzz, max_examples=500)
@given(fields, st.one_of(numbers, values))
def test_one_other_field_is_settings_or_refused(workdir, field, value):
    config = base_config("ee_d")
    *parents, name = field.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    # A config file can do this too: a field that is deleted and set anew loses its type.
    del section[name]
    section[name] = value
    run = refused(settings_from_config, config)
    if run is not None:
        rates = [phase.learning_rate for phase in run.phases]
        exits = run.recipe.exit_weights if isinstance(run.recipe.exit_weights, tuple) else ()
        assert all(map(math.isfinite, [run.width_multiplier, run.recipe.kd_ratio, config.checkpoint.every_s, *rates]))
        assert math.isfinite(run.recipe.weight_decay) and all(map(math.isfinite, exits))
    with mock.patch.object(eps, "read_arguments", return_value=Arguments(config, workdir, dry_run=False)):
        # Settings do not know the number of devices, which must divide the batch.
        assert accepted() == (run is not None and run.batch_size % jax.device_count() == 0)


texts = st.one_of(st.text(max_size=8), values.map(str), st.sampled_from(["true", "none", "(24,)", "nan", "1e9", "(("]))
flags = st.one_of(
    st.tuples(st.sampled_from(sorted(field_names(quickstart.get_config()))), texts).map(
        "--config.{0[0]}={0[1]}".format
    ),
    st.tuples(damaged(fields), texts).map("--config.{0[0]}={0[1]}".format),
    damaged(st.sampled_from(["--dry_run", "--nodry_run", "--config.data.flip", "--noconfig.data.flip"])),
    st.text(max_size=8),
)


@fuzz
@given(st.lists(flags, max_size=2))
def test_command_lines_are_settings_or_refused(workdir, arguments):
    accepted("--config=configs/quickstart.py", f"--workdir={workdir}", *arguments)
