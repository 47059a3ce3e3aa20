"""Compiled programs as text, as compilers for TPUs and GPUs write them, and what `benchmarks.aot` reads out of them."""

from pathlib import Path

from benchmarks.aot import drawn, hlo, traffic
from benchmarks.aot.lowering import Setting
from ofav2_jax.settings.recipe import Evaluation

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
SUBNETS = drawn.Drawn(4, {"if_stage_2_is_reached": 0.8, "if_level_is_active": 2 / 3})


def executed(text, subnets=None):
    module = hlo.Module(text, package=Path("/home/me/ofav2_jax"))
    found, unknown = traffic.operations(module, subnets)
    return {operation.instruction.name: operation for operation in found}, unknown, module
