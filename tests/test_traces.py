"""The cache of traced programs: a file is used for the same program, and for no other."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.compilation_cache import compilation_cache

import ofav2_jax
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.supernet import SuperNet, variable_shapes
from ofav2_jax.ops.backend import traced_for
from ofav2_jax.run import assembly
from ofav2_jax.runtime import trace_cache
from ofav2_jax.runtime.trace_cache import TraceCache, beside_compiled_programs
from tests.helpers.steps import MIXED, SMALL, train


class Function:
    """Counts how often it is traced."""

    def __init__(self, factor=2.0):
        self.factor = factor
        self.num_traces = 0

    def __call__(self, state, x):
        self.num_traces += 1
        return {"state": state["a"] * self.factor + x}


def lower(directory, function, described="net", name="step", x=3.0, devices=1):
    """Lowers a function with a new cache, as another process would: only the directory is shared."""
    args = {"a": jnp.arange(4.0)}, jnp.float32(x) if np.ndim(x) == 0 else x
    kept = TraceCache(directory, jax.devices()[:devices], described)
    return kept.lower(name, function, (0,), args), args


def run(directory, function, **further):
    lowered, args = lower(directory, function, **further)
    return lowered.compile()(*args)["state"], args


def test_kept_program_is_not_traced_again(tmp_path):
    first, again = Function(), Function()
    expected, _ = run(tmp_path / "new", first)
    result, (state, _) = run(tmp_path / "new", again)
    assert (first.num_traces, again.num_traces) == (1, 0)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(result, [3, 5, 7, 9])
    assert state["a"].is_deleted()


@pytest.mark.parametrize(
    "other", [{"described": "other net"}, {"name": "test"}, {"x": np.ones(4, np.float32)}, {"devices": 2}]
)
def test_other_program_is_traced(tmp_path, other):
    run(tmp_path, Function())
    function = Function(factor=10)
    lower(tmp_path, function, **other)
    assert function.num_traces == 1


@pytest.mark.parametrize(("backend", "platform"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_gradients_for_accelerators_can_be_kept(backend, platform):
    net = SuperNet("ee_dp", width_multiplier=0.1, num_classes=5, dtype=jnp.bfloat16)

    def gradient(params, images, choices):
        return jax.grad(lambda p: jnp.sum(net.apply({"params": p}, images, choices, train=True)))(params)

    args = variable_shapes(net)["params"], np.zeros((4, 32, 32, 3), np.float32), Choices.stack([SMALL, MIXED])
    with traced_for(backend):
        exported = trace_cache.exported_program(gradient, args, [platform])
    read = export.deserialize(exported.serialize())
    assert read.platforms == (platform,) and read.out_avals == exported.out_avals


def test_settings_of_jax_count(tmp_path):
    run(tmp_path, Function())
    function = Function()
    with jax.default_matmul_precision("float32"):
        run(tmp_path, function)
    assert function.num_traces == 1


def test_source_counts(tmp_path, monkeypatch):
    assert trace_cache._PACKAGE == Path(ofav2_jax.__file__).parent
    source = tmp_path / "package"
    (source / "train").mkdir(parents=True)
    (source / "train" / "step.py").write_text("changed = False\n")
    monkeypatch.setattr(trace_cache, "_PACKAGE", source)
    monkeypatch.setattr(trace_cache, "_code", trace_cache._code.__wrapped__)
    function = Function()
    run(tmp_path / "traces", function)
    run(tmp_path / "traces", function)
    assert function.num_traces == 1
    (source / "train" / "step.py").write_text("changed = True\n")
    run(tmp_path / "traces", function)
    assert function.num_traces == 2


def _cut(content):
    return content[: len(content) // 2]


def _flip(content):
    return content[:-9] + bytes([content[-9] ^ 0xFF]) + content[-8:]


@pytest.mark.parametrize("damage", [_cut, _flip, lambda _: b"", lambda _: b"of another kind" * 99])
def test_damaged_file_is_written_anew(tmp_path, damage):
    run(tmp_path, Function())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    function = Function()
    result, _ = run(tmp_path, function)
    assert function.num_traces == 1
    np.testing.assert_array_equal(result, [3, 5, 7, 9])
    function = Function()
    run(tmp_path, function)
    assert function.num_traces == 0


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="a traced program could not be kept"):
        result, _ = run(tmp_path / "file" / "traces", Function())
    np.testing.assert_array_equal(result, [3, 5, 7, 9])


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path):
    run(tmp_path, Function())
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="a traced program could not be kept"):
        run(tmp_path, Function())
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def jax_keeps_programs():
    """A function that sets JAX's compilation cache, or none, until the test ends."""
    before = {name: jax.config.values[name] for name in ("jax_compilation_cache_dir", "jax_enable_compilation_cache")}

    def keep(directory, enabled=True):
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_enable_compilation_cache", enabled)

    yield keep
    for name, value in before.items():
        jax.config.update(name, value)
    # JAX keeps on writing to the directory that it was first told.
    compilation_cache.reset_cache()


@pytest.mark.parametrize(
    ("directory", "enabled", "kept"),
    [(None, True, False), ("programs", True, True), ("programs", False, False), ("gs://bucket/programs", True, False)],
)
def test_traces_are_where_jax_keeps_programs(directory, enabled, kept, jax_keeps_programs):
    jax_keeps_programs(directory, enabled)
    assert (beside_compiled_programs(jax.devices()) is not None) == kept


class ForAccelerators(TraceCache):
    """Also exports every program for a GPU and a TPU, which fails if it could not be cached there."""

    def lower(self, name, function, donate, args):
        lowered = super().lower(name, function, donate, args)
        leaves, structure = jax.tree.flatten(args)
        program = jax.jit(lambda *leaves: function(*jax.tree.unflatten(structure, leaves)))
        export.export(program, platforms=["cuda", "tpu"])(*leaves).serialize()
        return lowered


def test_training_and_testing_on_four_devices(tmp_path, monkeypatch, jax_keeps_programs):
    jax_keeps_programs(str(tmp_path / "compiled"))
    devices, steps, traces = jax.devices()[:4], [[SMALL, MIXED]], tmp_path / "traces"
    with jax.enable_x64(True):
        expected = train("ofa_mbv3", "masked", devices, steps)
        for kind in (ForAccelerators, TraceCache):
            if kind is TraceCache:
                # All traces are in the cache by now, so that nothing calls the network any more.
                monkeypatch.setattr(SuperNet, "__call__", None)
            monkeypatch.setattr(
                assembly, "beside_compiled_programs", lambda *described, kind=kind: kind(traces, *described)
            )
            result = train("ofa_mbv3", "masked", devices, steps)
            assert result.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_array_equal(result[name], values, err_msg=f"{name}, {kind.__name__}")
    # There are three programs: a step with two subnets, recalibration and evaluation.
    assert len(list(traces.iterdir())) == 3
