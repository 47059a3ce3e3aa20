"""What `benchmarks.aot` reads out of a compiled program: loops, conditionals, bytes, source lines."""

import pytest

from benchmarks.aot import drawn, hlo, tables, traffic
from tests.helpers.aot import GPU_PROGRAM, SUBNETS, SUBNETS_PROGRAM, TPU_PROGRAM, executed


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


def test_only_the_slices_of_a_converted_array_are_read():
    converted = "%convert.1 = f32[1000,64]{1,0} convert(%param_0)\n  ROOT %gather.1 = f32[4,64]{1,0} gather(%convert.1,"
    operations, _, _ = executed(GPU_PROGRAM.replace("ROOT %gather.1 = u8[4,64]{1,0} gather(%param_0,", converted))
    assert operations["fusion.1"].read == 4 * 64 + 4 * 4


def test_float32_copies():
    _, _, module = executed(TPU_PROGRAM)
    (copy,) = traffic.float32_copies(module, batch_size=3)
    assert copy.startswith("fusion.2: f32[4,1,2,2,3], jit(f)/jvp(SuperNet)/stage_1")
    assert traffic.float32_copies(module, batch_size=4) == []
