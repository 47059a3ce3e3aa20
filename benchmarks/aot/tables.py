"""Sums over the operations of a program: by part of the network and pass, the most expensive ones, and ratios."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.aot.traffic import Operation

PASSES = ("input", "teacher", "forward", "backward", "optimiser", "other")
_PART = re.compile(r"\b(?:if_)?(stem(?=_)|stage_\d|exit_\d)")
_SUM_OF_GRADIENTS = "each_subnet/while/body/add"
_LAYERS = re.compile(
    r"\b((?:stem|expand|depthwise|project|mix)_bn|stem_conv|expand|depthwise|project|se|mix|classifier)(?=/|$)"
)
_COMPARED = (
    *("estimated_ms", "bound_ms", "model_ms", "bytes", "launches", "operations"),
    *("estimated_ms_largest", "bound_ms_largest", "model_ms_largest"),
    *("compile_processor_s", "temporary_bytes"),
)
_MOST_PARTS = 40


def pass_of(operation: Operation, has_teacher: bool) -> str:
    """The pass that an operation belongs to, one of `PASSES`; what is computed anew counts as backward."""
    name = operation.op_name
    if "transpose(" in name or "rematted_computation" in name or name.endswith(_SUM_OF_GRADIENTS):
        return "backward"
    if "jvp(" in name:
        return "forward"
    if "SuperNet" in name:
        return "teacher" if has_teacher else "forward"
    if any(source.startswith("train/optimizer.py") for source in operation.sources):
        return "optimiser"
    if "TrainStep.keys" in name or ".images" in name:
        return "input"
    if any(source.startswith(("data/augment.py", "runtime/feed.py")) for source in operation.sources):
        return "input"
    return "other"


def part_of(operation: Operation) -> str:
    """The stage, exit or stem and the layer in it: "stage_1 depthwise_bn"; "skipped" is what runs instead of a part."""
    if operation.skips:
        return "skipped"
    name = operation.op_name
    part = _PART.search(name)
    layer = _LAYERS.findall(name)
    if layer:
        what = layer[-1]
    elif "dynamic_index_in_dim" in name or "dynamic_update" in name:
        what = "stacks of the loop"
    elif ".images" in name:
        what = "images"
    elif name.endswith("split"):
        what = "parameters"
    elif name.endswith(_SUM_OF_GRADIENTS):
        what = "sum over subnets"
    else:
        what = "rest"
    return f"{part.group(1) if part else '-'} {what}"


def by_part(operations: Sequence[Operation], has_teacher: bool) -> list[dict[str, Any]]:
    """Sums by part of the network and pass, the most expensive first."""
    sums: dict[tuple[str, str], dict[str, Any]] = defaultdict(lambda: defaultdict(float))
    for operation in operations:
        row = sums[part_of(operation), pass_of(operation, has_teacher)]
        row["executed"] += operation.times
        row["bytes"] += operation.num_bytes * operation.times
        for estimate, ms in operation.ms.items():
            row[estimate] += ms
    rows = [{"part": part, "pass": in_pass, **row} for (part, in_pass), row in sums.items()]
    return sorted(rows, key=lambda row: -max(value for name, value in row.items() if name.endswith("_ms")))


def most_expensive(
    operations: Sequence[Operation], estimate: str, count: int, has_teacher: bool
) -> list[dict[str, Any]]:
    """The operations that take the most time by one of the estimates."""
    first = sorted(operations, key=lambda operation: -operation.ms[estimate])[:count]
    return [
        {
            "name": operation.instruction.name,
            "kind": operation.kind,
            "result": ", ".join(map(str, operation.instruction.results)),
            "times": operation.times,
            "read_bytes": operation.read,
            "written_bytes": operation.written,
            **operation.ms,
            "pass": pass_of(operation, has_teacher),
            "part": part_of(operation),
            "op_name": operation.op_name,
            "sources": list(operation.sources[:3]),
        }
        for operation in first
    ]


def print_parts(rows: list[dict[str, Any]], estimate: str) -> None:
    """One line for each part of the network, one column for each pass."""
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        parts[row["part"]][row["pass"]] += row[estimate]
    total = sum(map(_sum, parts.values())) or 1.0
    passes = [name for name in PASSES if any(name in part for part in parts.values())]
    print(f"\n{estimate} by part and pass\n{'':<30}" + "".join(f"{name:>11}" for name in passes) + f"{'all':>11}")
    ordered = sorted(parts.items(), key=lambda item: -_sum(item[1]))
    lines = [*ordered[:_MOST_PARTS]]
    if ordered[_MOST_PARTS:]:
        rest: dict[str, float] = defaultdict(float)
        for _, part in ordered[_MOST_PARTS:]:
            for name, ms in part.items():
                rest[name] += ms
        lines.append((f"({len(ordered) - _MOST_PARTS} others)", rest))
    lines.append(("all", {name: sum(part[name] for part in list(parts.values())) for name in passes}))
    for name, part in lines:
        columns = "".join(f"{part[each]:>11.3f}" if part.get(each) else " " * 11 for each in passes)
        print(f"{name:<30}{columns}{_sum(part):>11.3f}{_sum(part) / total:>8.1%}")


def _sum(part: dict[str, float]) -> float:
    return sum(part.values())


def print_most_expensive(rows: list[dict[str, Any]], estimate: str, total: float) -> None:
    """Two lines for each operation: what it costs, and where it comes from."""
    print(f"\nthe {len(rows)} most expensive by {estimate}: times, MB read, MB written each time")
    for row in rows:
        moved = f"{row['read_bytes'] / 1e6:>9.2f}{row['written_bytes'] / 1e6:>9.2f}"
        share = row[estimate] / (total or 1.0)
        costs = f"{row[estimate]:>9.3f} ms{share:>7.1%}{_number(row['times']):>9}{moved}"
        print(f"{costs}  {row['kind']}  {row['result'][:90]}")
        print(f"{'':>21}{row['name']}  {row['op_name'][-100:]}  {' '.join(row['sources'])}")


def _number(times: float) -> str:
    return f"{times:,.1f}".removesuffix(".0")


def ratios(results: dict[str, Any], earlier: dict[str, Any]) -> dict[str, float]:
    """Each figure divided by that of an earlier file."""
    return {
        name: results[name] / earlier[name]
        for name in _COMPARED
        if name in results and name in earlier and earlier[name]
    }
