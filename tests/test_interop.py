"""Reading PyTorch state dicts: one that fits is read completely, and entries that do not fit are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from ofav2_jax import Subnet, SuperNet
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.model.torch_weights import load_torch, to_torch
from tests.helpers.reference import load

STEM = "head_stage.first_conv.conv.weight"


@pytest.fixture(scope="module")
def reference():
    return load("ee_dp")


@pytest.mark.parametrize("network", NETWORKS)
def test_round_trip(network):
    reference = load(network)
    variables = reference.variables()
    state = to_torch(variables, reference.net())
    assert state.keys() == reference.state.keys()
    for name, value in reference.state.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def test_variables_have_the_form_of_created_ones(reference):
    def init(key):
        return reference.net().init(key, jnp.zeros((1, 48, 48, 3)), Subnet.uniform())

    created = jax.eval_shape(init, jax.random.key(0))
    loaded = jax.eval_shape(reference.variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(created)
    assert jax.tree.leaves(loaded) == jax.tree.leaves(created)


def test_file_and_mapping_agree(reference, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(reference.state, path)
    for source in (path, str(path)):
        loaded = load_torch(source, reference.net())
        jax.tree.map(np.testing.assert_array_equal, loaded, reference.variables())


def test_float64_stays_float64_where_jax_has_it(reference):
    state = {name: value.astype(np.float64) for name, value in reference.state.items()}
    assert {v.dtype for v in jax.tree.leaves(load_torch(state, reference.net()))} == {np.dtype(np.float32)}
    with jax.enable_x64(True):
        assert {v.dtype for v in jax.tree.leaves(load_torch(state, reference.net()))} == {np.dtype(np.float64)}


def test_batch_counters_are_ignored(reference):
    state = {**reference.state, "head_stage.first_conv.bn.num_batches_tracked": np.zeros((), np.int64)}
    load_torch(state, reference.net())


class Tensor:
    """Behaves as a PyTorch tensor that requires a gradient, as far as `load_torch` is concerned."""

    def __init__(self, value):
        self._value = value

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")

    def detach(self):
        return self

    def cpu(self):
        return self._value


def test_tensors(reference):
    loaded = load_torch({name: Tensor(value) for name, value in reference.state.items()}, reference.net())
    np.testing.assert_array_equal(
        loaded["params"]["stem_conv"]["kernel"], np.transpose(reference.state[STEM], (2, 3, 1, 0))
    )


def test_state_dict_of_another_network(reference):
    # Levels are named layers_blocks in ee_dp and layers in ee_b, so that most names are missing or unexpected.
    message = (
        r"does not fit network='ee_b', width_multiplier=0.25, num_classes=10: "
        r"\d+ missing: body_stages.*layers\..*, \.\.\.; \d+ unexpected: body_stages\.0\.layers_blocks.*, \.\.\.$"
    )
    with pytest.raises(ValueError, match=message) as error:
        load_torch(reference.state, SuperNet("ee_b", 0.25, 10))
    assert len(str(error.value)) < 1500


def test_state_dict_of_another_size(reference):
    with pytest.raises(ValueError, match=r"10 of another shape: .*linear\.bias \(10,\) instead of \(7,\)"):
        load_torch(reference.state, SuperNet("ee_dp", 0.25, 7))


def test_missing_unexpected_and_misshapen_are_all_named(reference):
    state = {**reference.state, "surprise": np.zeros(3), STEM: np.zeros((8, 3, 5, 5))}
    del state["exit_stages.0.classifier.linear.bias"]
    with pytest.raises(ValueError) as error:
        load_torch(state, reference.net())
    for part in (
        "1 missing: exit_stages.0.classifier.linear.bias",
        "1 unexpected: surprise",
        f"1 of another shape: {STEM} (8, 3, 5, 5) instead of (8, 3, 3, 3)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights"])
def test_pickled_files_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="can execute code: convert it with safetensors"):
        load_torch(tmp_path / name, SuperNet("ee_dp"))


def test_a_path_with_a_home_directory(reference, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(reference.state, tmp_path / "weights.safetensors")
    load_torch("~/weights.safetensors", reference.net())


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a safetensors file, or not a whole one: .*header too small"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is not a safetensors file, or not a whole one"),
        (POINTER, "is not a safetensors file, .*: it is a Git LFS pointer: fetch the weights with `git lfs pull`"),
        (save({STEM: np.zeros((8, 3, 3, 3), np.float32)})[:-5], "is not a safetensors file, or not a whole one"),
        (None, "cannot be read: No such file or directory"),
        ("directory", "cannot be read: it is a directory"),
    ],
)
def test_files_that_are_not_safetensors(content, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} {message}") as error:
        load_torch(path, SuperNet("ee_dp"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", [None, 3, ["weights.safetensors"]])
def test_sources_that_are_neither_file_nor_mapping(source):
    with pytest.raises(ValueError, match=r"it must be a \.safetensors file or a mapping"):
        load_torch(source, SuperNet("ee_dp"))


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


FORMS = {
    "of several GPUs": lambda state: prefixed("module.", state),
    "compiled": lambda state: prefixed("_orig_mod.module.", state),
    "averaged": lambda state: {"n_averaged": np.ones(()), **prefixed("module.", state)},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}}},
    "model": lambda state: {"model": prefixed("module.", state), "args": None},
    "nested": lambda state: {"checkpoint": {"model_state_dict": state}},
}


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_as_training_loops_leave_them(form, reference):
    loaded = load_torch(FORMS[form](reference.state), reference.net())
    jax.tree.map(np.testing.assert_array_equal, loaded, reference.variables())


def test_a_file_with_a_prefix(reference, tmp_path):
    save_file(prefixed("module.", reference.state), tmp_path / "weights.safetensors")
    loaded = load_torch(tmp_path / "weights.safetensors", reference.net())
    jax.tree.map(np.testing.assert_array_equal, loaded, reference.variables())


def test_two_sets_of_weights_are_one_too_many(reference):
    both = {"state_dict": prefixed("module.", reference.state), "ema": reference.state}
    with pytest.raises(
        ValueError, match=r"weights of 2 such networks, under 'state_dict/module\.' and 'ema/': give one"
    ):
        load_torch(both, reference.net())
    with pytest.raises(ValueError, match=r"under 'ema[.]' and 'model[.]': give one"):
        load_torch(prefixed("model.", reference.state) | prefixed("ema.", reference.state), reference.net())


def test_a_container_that_does_not_fit_is_named(reference):
    state = prefixed("module.", {**reference.state, "surprise": np.zeros(3)})
    with pytest.raises(ValueError, match=r"under 'model/module\.' does not fit .*: 1 unexpected: surprise$"):
        load_torch({"model": state}, reference.net())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((8, 3, 3, 3), np.nan), f"1 with NaN or infinite numbers: {STEM}$"),
        (np.full((8, 3, 3, 3), np.inf, np.float32), f"1 with NaN or infinite numbers: {STEM}$"),
        (np.zeros((8, 3, 3, 3), np.int8), f"1 without floating-point numbers: {STEM}$"),
        ("text", "1 without floating-point numbers"),
        (None, "1 without floating-point numbers"),
        ([[1.0], [1.0, 2.0]], "1 without floating-point numbers"),
    ],
)
def test_entries_that_are_no_weights(value, message, reference):
    with pytest.raises(ValueError, match=message):
        load_torch({**reference.state, STEM: value}, reference.net())


def test_tensors_of_a_type_that_numpy_lacks(reference):
    class Bfloat16(Tensor):
        def __array__(self, dtype=None, copy=None):
            raise TypeError("Got unsupported ScalarType BFloat16")

        def cpu(self):
            return self

        def float(self):
            return self._value

    loaded = load_torch({**reference.state, STEM: Bfloat16(reference.state[STEM])}, reference.net())
    jax.tree.map(np.testing.assert_array_equal, loaded, reference.variables())
