"""Estimates of a program on a device, and their tables."""

import dataclasses
import json

import pytest

from benchmarks.aot import __main__ as command
from benchmarks.aot import gpu_cost, tables, tpu_cost
from benchmarks.aot.targets import TARGETS, Target
from tests.helpers.aot import GPU_PROGRAM, SUBNETS, SUBNETS_PROGRAM, TPU_PROGRAM, executed


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
