"""Programs that are lowered from shapes; small ones for devices that are not here."""

import functools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.aot import drawn, hlo, traffic
from benchmarks.aot.lowering import IMAGE_BYTES, lower
from benchmarks.aot.targets import TARGETS, Target
from ofav2_jax.runtime.described import DescribedPrograms
from ofav2_jax.runtime.programs import Programs
from tests.helpers.aot import TINY, executed
from tests.helpers.structure import ROOT


class Here(Target):
    """A device that is here, so that a program can be lowered without the other compilers."""

    def device(self):
        return jax.devices("cpu")[0]


def test_a_program_is_lowered_instead_of_run():
    lowered = {}

    def take(name, resolution, trace):
        assert (name, resolution) not in lowered
        lowered[name, resolution] = trace()
        return lowered[name, resolution].out_info

    programs = DescribedPrograms(Programs(jax.devices("cpu")[:1], (32, 48)), take)
    add = programs.pmap(lambda state, x: (state + x.sum(), x.astype(jnp.bfloat16)), (None, 0), (None, 0), (0,))
    args = programs.replicate(np.zeros(5, np.float32)), programs.shard(np.zeros((1, 3), np.float32))
    for resolution in (48, 32):
        # The second time, as for the second batch of a test, nothing is traced again.
        state, x = programs.run("add", resolution, lambda _: add, *args, donate=(0,))
    assert (state.shape, state.dtype, x.shape, x.dtype) == ((5,), jnp.float32, (1, 3), jnp.bfloat16)
    assert not state.strides[0] and set(lowered) == {("add", 32), ("add", 48)}
    assert lowered["add", 32].compile().memory_analysis().alias_size_in_bytes == 5 * 4


@functools.cache
def lowered_here(phase):
    return lower(TINY, phase, Here("cpu", "any", 1.0, 1))


@pytest.mark.parametrize(("phase", "batch"), [("kernel", "tensor<1x3xi32>"), ("test", "tensor<1x3xi1>")])
def test_the_product_s_programs_are_lowered_from_shapes(phase, batch):
    lowered, seconds = lowered_here(phase)
    text = lowered.as_text()
    assert "tensor<110000x12288xui8>" in text and batch in text and "bf16" in text and seconds > 0


@pytest.mark.parametrize(
    ("phase", "conditions"),
    [
        ("kernel", {"level_is_active", *(f"stage_{i}_is_reached" for i in range(2, 6)),
                    *(f"exit_{i}_is_own" for i in range(1, 6))}),
        ("test", {"level_is_active"}),
    ],
)  # fmt: skip
def test_all_conditionals_of_the_product_are_known(phase, conditions):
    text = lowered_here(phase)[0].as_text(dialect="hlo", debug_info=True)
    names = re.findall(r' conditional\(.*op_name="([^"]*)"', text)
    subnets = drawn.in_program(TINY, phase)
    assert len(names) == text.count(" conditional(") and None not in map(subnets.probability, names)
    assert {name.split("/")[-2] for name in names} == {f"if_{condition}" for condition in conditions}
    loops = re.findall(r' while\(.*op_name="([^"]*)"', text)
    assert [subnets.trip_count(name) for name in loops if "each_subnet" in name].count(subnets.num_subnets) == 1


# --- devices that are not here ------------------------------------------------------------------------------------


@functools.cache
def compiled(target, phase):
    """The figures that the command writes about a small program, and the program's text."""
    if TARGETS[target].missing:
        pytest.skip(TARGETS[target].missing)
    # In a process of its own, because JAX chooses its compilers once in a process.
    with tempfile.TemporaryDirectory() as folder:
        size = [f"--width_multiplier={TINY.width_multiplier}", f"--batch_size={TINY.batch_size}", "--resolution=32"]
        files = [f"--json={folder}/figures", f"--hlo={folder}/program"]
        arguments = [f"--target={target}", f"--phase={phase}", *size, *files]
        command_line = [sys.executable, "-m", "benchmarks.aot", *arguments]
        done = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(Path(folder, "figures").read_text()), Path(folder, "program").read_text()


@pytest.mark.parametrize(("target", "phase"), [("v5e", "full"), ("v5e", "test"), ("h100", "test")])
def test_small_programs_compile(target, phase):
    found, _ = compiled(target, phase)
    assert found["argument_bytes"] >= IMAGE_BYTES
    assert found["launches"] > found["operations"] > 300
    assert not found["loops_of_unknown_length"] and not found["conditionals_of_unknown_frequency"]
    estimates = ("estimated_ms",) if target == "v5e" else ("bound_ms", "model_ms")
    assert all(found[name] > 0 for name in estimates)
    # Most of the time is known to belong to a part of the network, or to reading the images.
    known = sum(row["executed"] for row in found["parts"] if not row["part"].startswith("-"))
    assert known > 0.7 * found["launches"]
    passes = {row["pass"] for row in found["parts"]}
    assert passes >= ({"forward", "backward", "optimiser", "input"} if phase == "full" else {"forward", "input"})


def test_no_kernel_of_a_gpu_touches_all_images():
    operations, _, _ = executed(compiled("h100", "test")[1])
    assert [o.instruction.name for o in operations.values() if max(o.read, o.written) >= IMAGE_BYTES] == []


def test_no_operation_of_a_tpu_touches_all_images():
    operations, _, _ = executed(compiled("v5e", "full")[1])
    assert [o.instruction.name for o in operations.values() if max(o.read, o.written) >= IMAGE_BYTES] == []


def test_no_activation_is_copied_to_float32_on_a_tpu():
    _, text = compiled("v5e", "full")
    assert traffic.float32_copies(hlo.Module(text), TINY.batch_size) == []
