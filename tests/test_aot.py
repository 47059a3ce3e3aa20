"""`benchmarks.aot`: what it reads out of compiled programs; small programs for devices that are not here."""

import dataclasses
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

from benchmarks.aot import __main__ as command
from benchmarks.aot import drawn, gpu_cost, hlo, projection, tables, tpu_cost, traffic
from benchmarks.aot.lowering import IMAGE_BYTES, Setting, lower
from benchmarks.aot.targets import TARGETS, Target
from benchmarks.train_step import NUM_SUBNETS
from ofav2_jax import Settings
from ofav2_jax.runtime.described import DescribedPrograms
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.recipe import Evaluation
from tests.helpers.structure import ROOT

# A loop of 3 in one of 5, whose condition says so in its metadata or in a constant, as libtpu writes them.
TPU_PROGRAM = """HloModule jit_step, is_scheduled=true

FileNames
1 "/usr/lib/flax.py"
2 "/home/me/ofav2_jax/model/stage.py"
3 "/home/me/ofav2_jax/train/step.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=3 function_name_id=1 line=200 end_line=200 column=4 end_column=9}
2 {file_name_id=1 function_name_id=1 line=11 end_line=11 column=4 end_column=9}
3 {file_name_id=2 function_name_id=1 line=85 end_line=85 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%fused_slice (param_0: bf16[5,8,128], param_1: s32[]) -> bf16[8,128] {
  %param_0 = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %constant.1 = s32[]{:T(128)} constant(0)
  %dynamic-slice.1 = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_0, %param_1, %constant.1, %constant.1), dynamic_slice_sizes={1,8,128}
  ROOT %bitcast.1 = bf16[8,128]{1,0:T(8,128)(2,1)} bitcast(%dynamic-slice.1)
}

%fused_convert (param_0.1: bf16[4,1,2,2,3]) -> f32[4,1,2,2,3] {
  %param_0.1 = bf16[4,1,2,2,3]{0,4,3,2,1:T(4,128)(2,1)S(1)} parameter(0)
  %convert.1 = f32[4,1,2,2,3]{0,4,3,2,1:T(4,128)S(1)} convert(%param_0.1), metadata={op_name="jit(f)/jvp(SuperNet)/stage_1/expand_bn/convert_element_type" stack_frame_id=3}
  ROOT %copy.1 = f32[4,1,2,2,3]{4,0,3,2,1:T(4,128)} copy(%convert.1)
}

%inner_condition (arg: (s32[], bf16[5,8,128])) -> pred[] {
  %arg = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %constant.2 = s32[]{:T(128)} constant(3)
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.2), direction=LT
}

%inner_body (arg.1: (s32[], bf16[5,8,128])) -> (s32[], bf16[5,8,128]) {
  %arg.1 = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %get-tuple-element.2 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %get-tuple-element.3 = bf16[5,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%arg.1), index=1
  %fusion.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} fusion(%get-tuple-element.3, %get-tuple-element.2), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(f)/transpose(jvp(SuperNet))/stage_2/while/body/jit(dynamic_index_in_dim)/dynamic_slice" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"100","iteration_bounds":["1"]}}
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) tuple(%get-tuple-element.2, %get-tuple-element.3)
}

%outer_condition (arg.2: (s32[], bf16[5,8,128])) -> pred[] {
  %arg.2 = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  ROOT %constant.3 = pred[]{:T(512)} constant(true)
}

%outer_body (arg.3: (s32[], bf16[5,8,128])) -> (s32[], bf16[5,8,128]) {
  %arg.3 = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  ROOT %while.1 = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) while(%arg.3), condition=%inner_condition, body=%inner_body
}

ENTRY %main (images: u8[10,3], state: (s32[], bf16[5,8,128]), small: bf16[4,1,2,2,3]) -> u8[10,3] {
  %images = u8[10,3]{0,1:T(8,128)(4,1)} parameter(0), metadata={op_name="args[1].images.images"}
  %state = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) parameter(1)
  %small = bf16[4,1,2,2,3]{0,4,3,2,1:T(4,128)(2,1)S(1)} parameter(2)
  %while.2 = (s32[]{:T(128)}, bf16[5,8,128]{2,1,0:T(8,128)(2,1)}) while(%state), condition=%outer_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %fusion.2 = f32[4,1,2,2,3]{4,0,3,2,1:T(4,128)} fusion(%small), kind=kLoop, calls=%fused_convert, backend_config={"window_config":{"estimated_cycles":"40"}}
  %copy-start = (u8[10,3]{0,1:T(8,128)(4,1)S(1)}, u8[10,3]{0,1:T(8,128)(4,1)}, u32[]{:S(2)}) copy-start(%images)
  %copy-done = u8[10,3]{0,1:T(8,128)(4,1)S(1)} copy-done(%copy-start)
  %slice-start = ((u8[10,3]{0,1:T(8,128)(4,1)}), u8[5,3]{0,1:T(8,128)(4,1)S(1)}, s32[]{:S(2)}) slice-start(%images), slice={[0:5], [0:3]}
  %slice-done = u8[5,3]{0,1:T(8,128)(4,1)S(1)} slice-done(%slice-start)
  ROOT %copy.2 = u8[10,3]{1,0:T(8,128)(4,1)} copy(%images), metadata={op_name="args[1].images.images"}, backend_config={"window_config":{"estimated_cycles":"7"}}
}
"""  # noqa: E501

GPU_PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_gather (param_0: u8[1000,64], param_1: s32[4,1]) -> u8[4,64] {
  %param_0 = u8[1000,64]{1,0} parameter(0)
  %param_1 = s32[4,1]{1,0} parameter(1)
  ROOT %gather.1 = u8[4,64]{1,0} gather(%param_0, %param_1), offset_dims={1}, slice_sizes={1,64}
}

%fused_update (param_0.1: f32[3,1000], param_1.1: f32[1000], param_2.1: s32[]) -> (f32[3,1000], f32[1000]) {
  %param_0.1 = f32[3,1000]{1,0} parameter(0)
  %param_1.1 = f32[1000]{0} parameter(1)
  %param_2.1 = s32[] parameter(2)
  %constant.1 = s32[] constant(0)
  %negate.1 = f32[1000]{0} negate(%param_1.1)
  %bitcast.1 = f32[1,1000]{1,0} bitcast(%negate.1)
  %dynamic-update-slice.1 = f32[3,1000]{1,0} dynamic-update-slice(%param_0.1, %bitcast.1, %param_2.1, %constant.1)
  ROOT %tuple.1 = (f32[3,1000]{1,0}, f32[1000]{0}) tuple(%dynamic-update-slice.1, %negate.1)
}

%graph (a: bf16[64,64], b: bf16[64,64]) -> bf16[64,64] {
  %a = bf16[64,64]{1,0} parameter(0)
  %b = bf16[64,64]{1,0} parameter(1)
  %custom-call.1 = (bf16[64,64]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"reification_cost":[{"end_to_end_cycles":0,"exec_time_us":0.3,"compute_time_us":0,"memory_access_time_us":0,"name":"sol"}]}
  ROOT %get-tuple-element.1 = bf16[64,64]{1,0} get-tuple-element(%custom-call.1), index=0
}

ENTRY %main (images: u8[1000,64], places: s32[4,1], stack: f32[3,1000], x: f32[1000], i: s32[], a: bf16[64,64]) -> bf16[64,64] {
  %images = u8[1000,64]{1,0} parameter(0)
  %places = s32[4,1]{1,0} parameter(1)
  %stack = f32[3,1000]{1,0} parameter(2)
  %x = f32[1000]{0} parameter(3)
  %i = s32[] parameter(4)
  %a.1 = bf16[64,64]{1,0} parameter(5)
  %fusion.1 = u8[4,64]{1,0} fusion(%images, %places), kind=kLoop, calls=%fused_gather, backend_config={"reification_cost":[{"end_to_end_cycles":16.3,"exec_time_us":2.5,"compute_time_us":0.1,"memory_access_time_us":0.1,"name":""},{"end_to_end_cycles":0,"exec_time_us":9,"compute_time_us":0,"memory_access_time_us":0,"name":"sol"}]}
  %fusion.2 = (f32[3,1000]{1,0}, f32[1000]{0}) fusion(%stack, %x, %i), kind=kLoop, calls=%fused_update
  ROOT %call.1 = bf16[64,64]{1,0} call(%a.1, %a.1), to_apply=%graph
}
"""  # noqa: E501

# Subnets in a loop, in it a conditional by index, in that a loop over levels with a conditional by a bool.
SUBNETS_PROGRAM = """HloModule jit_step, is_scheduled=true

%no_level (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %skipped_level = f32[8]{0} copy(%x), backend_config={"window_config":{"estimated_cycles":"1"}}
}

%level (x.1: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  ROOT %level.1 = f32[8]{0} negate(%x.1), metadata={op_name="jit(f)/each_subnet/while/body/jvp(SuperNet)/if_stage_2_is_reached/cond/branch_1_fun/stage_2/while/body/closed_call/if_level_is_active/cond/branch_1_fun/Level/expand/neg"}, backend_config={"window_config":{"estimated_cycles":"100"}}
}

%levels_condition (x.2: f32[8]) -> pred[] {
  %x.2 = f32[8]{0} parameter(0)
  ROOT %constant.1 = pred[] constant(true)
}

%levels (x.3: f32[8]) -> f32[8] {
  %x.3 = f32[8]{0} parameter(0)
  %constant.2 = pred[] constant(true)
  ROOT %cond.1 = f32[8]{0} conditional(%constant.2, %x.3, %x.3), true_computation=%level, false_computation=%no_level, metadata={op_name="jit(f)/each_subnet/while/body/jvp(SuperNet)/if_stage_2_is_reached/cond/branch_1_fun/stage_2/while/body/closed_call/if_level_is_active/cond"}
}

%no_stage (x.4: f32[8]) -> f32[8] {
  %x.4 = f32[8]{0} parameter(0)
  ROOT %skipped_stage = f32[8]{0} copy(%x.4), metadata={op_name="jit(f)"}, backend_config={"window_config":{"estimated_cycles":"2"}}
}

%stage (x.5: f32[8]) -> f32[8] {
  %x.5 = f32[8]{0} parameter(0)
  %first = f32[8]{0} copy(%x.5), metadata={op_name="jit(f)"}, backend_config={"window_config":{"estimated_cycles":"50"}}
  ROOT %while.1 = f32[8]{0} while(%first), condition=%levels_condition, body=%levels, metadata={op_name="jit(f)/each_subnet/while/body/jvp(SuperNet)/if_stage_2_is_reached/cond/branch_1_fun/stage_2/while"}, backend_config={"known_trip_count":{"n":"3"}}
}

%subnets_condition (x.6: f32[8]) -> pred[] {
  %x.6 = f32[8]{0} parameter(0)
  ROOT %constant.3 = pred[] constant(true)
}

%subnet (x.7: f32[8]) -> f32[8] {
  %x.7 = f32[8]{0} parameter(0)
  %constant.4 = s32[] constant(1)
  ROOT %cond.2 = f32[8]{0} conditional(%constant.4, %x.7, %x.7), branch_computations={%no_stage, %stage}, metadata={op_name="jit(f)/each_subnet/while/body/jvp(SuperNet)/if_stage_2_is_reached/cond"}
}

ENTRY %main (x.8: f32[8]) -> f32[8] {
  %x.8 = f32[8]{0} parameter(0)
  ROOT %while.2 = f32[8]{0} while(%x.8), condition=%subnets_condition, body=%subnet, metadata={op_name="jit(f)/each_subnet/while"}
}
"""  # noqa: E501

TINY = Setting("ee_d", 0.1, batch_size=3, resolution=32, evaluation=Evaluation(6, 3, 3))


def executed(text, subnets=None):
    module = hlo.Module(text, package=Path("/home/me/ofav2_jax"))
    found, unknown = traffic.operations(module, subnets)
    return {operation.instruction.name: operation for operation in found}, unknown, module


# --- reading a program --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "num_bytes", "in_main_memory"),
    [
        ("f32[]", 4, True),
        ("bf16[3,5]{1,0}", 30, True),
        ("pred[7]{0:T(512)(128)(4,1)S(1)}", 512, False),
        # The tile of 8 x 128 lies on the two innermost dimensions, which the layout names first.
        ("bf16[3,48,1]{1,2,0:T(8,128)(2,1)}", 3 * 128 * 8 * 2, True),
        ("u8[110000,64,64,3]{2,1,3,0:T(8,128)(4,1)}", 110_000 * 64 * 128 * 3, True),
    ],
)
def test_arrays(shape, num_bytes, in_main_memory):
    (array,) = hlo.arrays(shape)
    assert (array.num_bytes, array.in_main_memory) == (num_bytes, in_main_memory)


def test_arrays_of_a_tuple():
    shape = "(s32[]{:T(128)}, /*index=5*/bf16[8,1,2,2,4]{0,4,3,2,1:T(4,128)(2,1)S(1)}, s8[4194304]{0})"
    assert [str(array) for array in hlo.arrays(shape)] == ["s32[]", "bf16[8,1,2,2,4]", "s8[4194304]"]


def test_loops_multiply():
    operations, unknown, _ = executed(TPU_PROGRAM)
    assert {name: operation.times for name, operation in operations.items()} == {
        "fusion.1": 15,
        "fusion.2": 1,
        "copy-start": 1,
        "slice-start": 1,
        "copy.2": 1,
    }
    assert unknown == traffic.Unknown()


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    operations, unknown, _ = executed(TPU_PROGRAM.replace(', backend_config={"known_trip_count":{"n":"5"}}', ""))
    assert operations["fusion.1"].times == 3 and unknown == traffic.Unknown(loops=["while.2"])


SUBNETS = drawn.Drawn(4, {"if_stage_2_is_reached": 0.8, "if_level_is_active": 2 / 3})


def test_conditionals_count_as_often_as_subnets_contain_what_they_skip():
    operations, unknown, _ = executed(SUBNETS_PROGRAM, SUBNETS)
    assert {name: operation.times for name, operation in operations.items()} == {
        "skipped_stage": pytest.approx(4 * 0.2),
        "first": pytest.approx(4 * 0.8),
        "skipped_level": pytest.approx(4 * 0.8 * 3 * 1 / 3),
        "level.1": pytest.approx(4 * 0.8 * 3 * 2 / 3),
    }
    assert [name for name, operation in operations.items() if operation.skips] == ["skipped_stage", "skipped_level"]
    assert unknown == traffic.Unknown()


def test_an_upper_bound_takes_every_branch_that_computes_and_that_a_subnet_may_take():
    operations, _, _ = executed(SUBNETS_PROGRAM, SUBNETS.largest)
    assert {name: operation.times for name, operation in operations.items()} == {"first": 4, "level.1": 12}
    assert drawn.Drawn(1, {"if_exit_1_is_own": 0.0}).largest.probabilities == {"if_exit_1_is_own": 0.0}


def test_what_is_not_known_counts_once_with_the_larger_branch_and_is_named():
    # The name of this one starts with that of the one around it.
    text = SUBNETS_PROGRAM.replace("if_level_is_active", "other").replace("%level.1 = f32[8]", "%level.1 = f32[9]")
    operations, unknown, _ = executed(text, SUBNETS)
    assert "skipped_level" not in operations and operations["level.1"].times == pytest.approx(4 * 0.8 * 3)
    assert unknown == traffic.Unknown(conditionals=["cond.1"])
    operations, unknown, _ = executed(SUBNETS_PROGRAM.replace("%skipped_stage = f32[8]", "%skipped_stage = f32[99]"))
    assert {name: operation.times for name, operation in operations.items()} == {"skipped_stage": 1}
    assert unknown.loops == ["while.2"] and set(unknown.conditionals) == {"cond.1", "cond.2"}


def test_operations_without_a_name_belong_to_where_they_are():
    operations, _, _ = executed(SUBNETS_PROGRAM, SUBNETS)
    found = {name: (tables.pass_of(o, has_teacher=True), tables.part_of(o)) for name, o in operations.items()}
    assert found == {
        "skipped_stage": ("forward", "skipped"),
        "first": ("forward", "stage_2 rest"),
        "skipped_level": ("forward", "skipped"),
        "level.1": ("forward", "stage_2 expand"),
    }


def test_source_lines_are_those_of_the_package_the_innermost_first():
    operations, _, _ = executed(TPU_PROGRAM)
    assert operations["fusion.1"].sources == ("train/step.py:200",)
    assert operations["fusion.2"].sources == ("model/stage.py:85", "train/step.py:200")


def test_bytes_on_a_tpu():
    operations, _, _ = executed(TPU_PROGRAM)
    found = {name: (operation.read, operation.written) for name, operation in operations.items()}
    assert found == {
        # A row of a stack, into the memory of the core.
        "fusion.1": (8 * 128 * 2 + 4, 0),
        "fusion.2": (0, 4 * 2 * 2 * 128 * 4),
        "copy-start": (8 * 128, 0),
        "slice-start": (8 * 128, 0),
        "copy.2": (8 * 128, 16 * 128),
    }


def test_bytes_on_a_gpu():
    operations, _, _ = executed(GPU_PROGRAM)
    found = {name: (operation.read, operation.written) for name, operation in operations.items()}
    assert found == {
        "fusion.1": (4 * 64 + 4 * 4, 4 * 64),
        # In place: neither the stack is read, nor the rest of it written.
        "fusion.2": (4000 + 4, 4000 + 4000),
        # Without the room that the library is given.
        "custom-call.1": (2 * 64 * 64 * 2, 64 * 64 * 2),
    }


def test_float32_copies():
    _, _, module = executed(TPU_PROGRAM)
    (copy,) = traffic.float32_copies(module, batch_size=3)
    assert copy.startswith("fusion.2: f32[4,1,2,2,3], jit(f)/jvp(SuperNet)/stage_1")
    assert traffic.float32_copies(module, batch_size=4) == []


# --- subnets that are drawn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "num_subnets", "level", "reached", "own"),
    [
        ("kernel", 1, 1, [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]),
        # Depths 4, 3 and 2 run all three levels of the loop, two, and one.
        ("depth2", 2, 2 / 3, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5], [1 / 5] * 5),
        ("width2", 4, 2 / 3, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5], [1 / 5] * 5),
    ],
)
def test_subnets_of_a_step(phase, num_subnets, level, reached, own):
    found = drawn.in_program(TINY, phase)
    assert found.num_subnets == NUM_SUBNETS[phase] == num_subnets
    assert found.probabilities == {
        "if_level_is_active": pytest.approx(level),
        **{f"if_stage_{i + 1}_is_reached": pytest.approx(share) for i, share in enumerate(reached)},
        **{f"if_exit_{i + 1}_is_own": pytest.approx(share) for i, share in enumerate(own)},
    }


@pytest.mark.parametrize("phase", ["recalibrate", "test"])
def test_subnets_of_a_test(phase):
    found = drawn.in_program(dataclasses.replace(TINY, evaluation=Evaluation(6, 3, 3, subnets_per_pass=3)), phase)
    assert found.num_subnets == 3 and found.probabilities["if_level_is_active"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("network", "phase", "level", "stage_4", "exit_4"),
    [
        ("ee_d", "full", 1, 1, 0),
        ("ee_d", "height-2", 1, 2 / 3, 1 / 3),
        ("ee_d", "depth-1", 5 / 6, 2 / 5, 1 / 5),
        ("ofa_mbv3", "width-1", 2 / 3, 1, 0),
    ],
)
def test_subnets_of_each_phase_of_a_run(network, phase, level, stage_4, exit_4):
    phases = paper_phases(network)
    (index,) = (i for i, each in enumerate(phases) if each.name == phase)
    found = drawn.in_phase(network, phases, index).probabilities
    shares = [found[name] for name in ("if_level_is_active", "if_stage_4_is_reached", "if_exit_4_is_own")]
    assert shares == pytest.approx([level, stage_4, exit_4])


# --- a whole run ----------------------------------------------------------------------------------------------


def test_a_tpu_runs_two_programs_and_a_gpu_one_for_each_number_of_subnets():
    settings = Settings.paper("ofa_mbv3")
    assert [phase.name for phase in settings.phases] == ["full", "kernel", "depth-1", "depth-2", "width-1", "width-2"]
    assert projection.programs_of(settings, TARGETS["v5e"]) == {"full": [0], "width2": [1, 2, 3, 4, 5]}
    by_number = {"full": [0], "kernel": [1], "depth2": [2, 3], "width2": [4, 5]}
    assert projection.programs_of(settings, TARGETS["h100"]) == by_number


def test_one_program_is_estimated_for_each_phase(monkeypatch, capsys):
    class Compiled:
        def as_text(self):
            return SUBNETS_PROGRAM

    monkeypatch.setattr(projection, "lower", lambda *_: (None, 0.0))
    monkeypatch.setattr(projection, "compile_for", lambda *_: (Compiled(), 7.0))
    target, settings = Target("tpu", "any", bandwidth=1.0, memory=1, clock_hz=1e3), Settings.paper("ee_d")
    kernel, width_2 = 1, len(settings.phases) - 1
    found = projection.estimate(TINY, settings, target, "width2", [kernel, width_2])
    assert found == {
        ("kernel", 32): {"estimated_ms": pytest.approx(50 + 3 * 100)},
        ("width-2", 32): {"estimated_ms": pytest.approx(4 * (0.2 * 2 + 0.8 * (50 + 1 * 1 + 2 * 100)))},
    }
    assert "width-2   estimated_ms 804.80" in capsys.readouterr().out


def test_a_whole_run_is_the_sum_of_its_phases(capsys):
    settings = Settings.paper("ee_d")
    resolutions = (48, 64)
    estimates = {(phase.name, r): {"bound_ms": r / 10} for phase in settings.phases for r in resolutions}
    found = projection.project(settings, estimates, resolutions)
    # 425 batches of 200 in an epoch; 180 epochs of phase full, 120 and 5 of phase kernel.
    assert [row["steps"] for row in found["phases"]][:2] == [180 * 425, 125 * 425]
    assert found["steps"] == 915 * 425
    assert found["hours"] == {"bound_ms": pytest.approx(915 * 425 * 5.6e-3 / 3600)}
    projection.print_table({"setting": {"resolutions": resolutions}, **found}, missing={56})
    assert "as if they had 48, 64 px; a run draws 56 px as often, too" in capsys.readouterr().out


# --- estimates and tables -----------------------------------------------------------------------------------------


def test_cycles_of_a_tpu():
    operations, _, _ = executed(TPU_PROGRAM)
    target = Target("tpu", "any", bandwidth=1e6, memory=1, clock_hz=1e3)
    figures = tpu_cost.estimate(list(operations.values()), target)
    assert figures["estimated_ms"] == 15 * 100 + 40 + 7
    assert figures["bytes_ms"] == pytest.approx(15 * 2.052 + 8.192 + 1.024 + 1.024 + 3.072)


def test_bound_and_model_of_a_gpu():
    operations, _, _ = executed(GPU_PROGRAM)
    target = Target("gpu", "any", bandwidth=1e9, memory=1)
    figures = gpu_cost.estimate(list(operations.values()), target)
    # fusion.1 moves 528 bytes, less than a launch takes; of fusion.2 and the product XLA has no model.
    assert figures["bound_ms"] == pytest.approx(3e-3 + 12.004e-3 + 24.576e-3)
    assert figures["model_ms"] == pytest.approx(2.5e-3 + 12.004e-3 + 24.576e-3)
    assert figures["launches_ms"] == pytest.approx(9e-3)


@pytest.mark.parametrize(
    ("op_name", "sources", "in_pass", "part"),
    [
        ("jit(f)/jvp(SuperNet)/stem_bn/mul", (), "forward", "stem stem_bn"),
        ("jit(f)/SuperNet/stage_3/while/body/inverted_bottleneck/se/reduce/dot", (), "teacher", "stage_3 se"),
        ("jit(f)/transpose(jvp(SuperNet))/exit_5/expand_bn/mul", (), "backward", "exit_5 expand_bn"),
        ("jit(f)/jvp(SuperNet)/stage_1/while/body/jit(dynamic_update_index_in_dim)/dynamic_update_slice", (), "forward",
         "stage_1 stacks of the loop"),
        ("jit(f)/jvp()/split", (), "forward", "- parameters"),
        ("jit(f)/add", ("train/optimizer.py:47", "train/step.py:135"), "optimiser", "- rest"),
        ("jit(f)/vmap()/gather", ("data/augment.py:88",), "input", "- rest"),
        ("args[1].images.images", (), "input", "- images"),
        ("", (), "other", "- rest"),
        ("jit(f)/each_subnet/while/body/transpose(jvp(SuperNet))/if_exit_2_is_own/cond/branch_1_fun/exit_2/mix_bn/mul",
         (), "backward", "exit_2 mix_bn"),
        ("jit(f)/each_subnet/while/body/transpose(jvp(SuperNet))/if_stage_3_is_reached/add_any", (), "backward",
         "stage_3 rest"),
        ("jit(f)/each_subnet/while/body/add", ("train/step.py:219",), "backward", "- sum over subnets"),
    ],
)  # fmt: skip
def test_passes_and_parts(op_name, sources, in_pass, part):
    operation = dataclasses.replace(next(iter(executed(GPU_PROGRAM)[0].values())), op_name=op_name, sources=sources)
    assert (tables.pass_of(operation, has_teacher=True), tables.part_of(operation)) == (in_pass, part)


def test_figures_and_tables_of_a_program(capsys):
    target = TARGETS["h100"]
    found = command.analysis(GPU_PROGRAM, target, top=2, has_teacher=False)
    assert (found["operations"], found["launches"]) == (3, 3)
    assert found["bytes"] == 528 + 12_004 + 24_576
    assert sum(row["bound_ms"] for row in found["parts"]) == pytest.approx(found["bound_ms"]) == pytest.approx(9e-3)
    assert [row["name"] for row in found["most_expensive"]["model_ms"]] == ["fusion.1", "custom-call.1"]
    sizes = {"argument_bytes": 1, "temporary_bytes": 2, "new_result_bytes": 3}
    command.print_results({"setting": {"target": "h100"}, **sizes, **found}, target)
    assert "the 2 most expensive by bound_ms" in capsys.readouterr().out
    assert json.loads(json.dumps(found))["bytes"] == found["bytes"]


def test_figures_of_a_program_that_skips(capsys):
    target = Target("tpu", "any", bandwidth=1.0, memory=1, clock_hz=1e3)
    found = command.analysis(SUBNETS_PROGRAM, target, 4, True, dataclasses.replace(SUBNETS, num_subnets=1000))
    assert found["estimated_ms"] == pytest.approx(1000 * (0.2 * 2 + 0.8 * (50 + 1 * 1 + 2 * 100)))
    assert found["estimated_ms_largest"] == pytest.approx(1000 * (50 + 3 * 100))
    assert found["launches"] == 200 + 800 + 800 + 1600 and isinstance(found["launches"], int)
    sizes = {"argument_bytes": 1, "temporary_bytes": 2, "new_result_bytes": 3}
    command.print_results({"setting": {"target": "v5e"}, **sizes, **json.loads(json.dumps(found))}, target)
    printed = capsys.readouterr().out
    assert "_largest is an upper bound" in printed and " 1,600 " in printed and "skipped" in printed


def test_ratios():
    earlier = {"bytes": 200, "launches": 10, "bound_ms": 2.0, "temporary_bytes": 0}
    assert tables.ratios({**earlier, "bytes": 100}, earlier) == {"bytes": 0.5, "launches": 1.0, "bound_ms": 1.0}


# --- lowering -----------------------------------------------------------------------------------------------------


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
