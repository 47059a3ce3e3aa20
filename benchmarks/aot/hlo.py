"""Reads the text of a compiled program: computations, instructions, arrays with their layouts, source lines."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path

import ofav2_jax

_PACKAGE = Path(ofav2_jax.__file__).parent
_BITS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b(pred|token|opaque|bf16|[fsuc]\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_CALLED = re.compile(r"\b(?:calls|to_apply)=(\{[^}]*\}|%?[\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=(\{[^}]*\})")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in the program.

    Attributes:
        dtype: as XLA writes it, "bf16".
        dims: its dimensions.
        layout: its layout, tiling and memory space, as XLA writes them: "1,0:T(8,128)(2,1)S(1)".
    """

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def in_main_memory(self) -> bool:
        """Whether it lies in the device's main memory, and not in a memory of the core itself."""
        return "S(" not in self.layout

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes; the two (or more) innermost dimensions are padded to whole tiles."""
        order, _, tiling = self.layout.partition(":")
        dims = list(self.dims)
        tile = re.match(r"T\(([\d,]+)\)", tiling)
        if tile and dims:
            innermost_first = [int(axis) for axis in order.split(",")]
            for axis, size in zip(innermost_first, reversed(tile.group(1).split(","))):
                dims[axis] = -(-dims[axis] // int(size)) * int(size)
        return math.prod(dims) * _bits(self.dtype) // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    number = re.match(r"[a-z]+(\d+)", dtype)
    return int(number.group(1)) if number else 0


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape as XLA writes it, those of a tuple in their order."""
    return tuple(
        Array(dtype, tuple(int(size) for size in dims.split(",") if size), layout)
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


@dataclasses.dataclass
class Instruction:
    """One instruction.

    Attributes:
        name: its name, unique in its computation.
        op: what it does: "fusion", "copy", ...
        results: the array that it makes, or several.
        operands: names of the instructions whose results it uses.
        attributes: all that is written behind the operands.
        argument: what is written in the place of the operands: the value of a constant, the number of a parameter.
        is_root: whether its results are those of the computation.
    """

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    argument: str
    is_root: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of its results, wherever they lie."""
        return sum(array.num_bytes for array in self.results)

    @property
    def op_name(self) -> str:
        """JAX's name: functions, modules and the primitive that it comes from; "" if it has none."""
        return self.attribute(r'op_name="([^"]*)"') or ""

    @property
    def called(self) -> list[str]:
        """The computations that it calls once: of a fusion or a call; not those of a loop or a conditional."""
        return _names(_CALLED.search(self.attributes))

    @property
    def branches(self) -> list[str]:
        """The computations that a conditional chooses among, that for false or 0 first."""
        of_bool = [self.attribute(rf"\b{value}_computation=%?([\w.\-]+)") for value in ("false", "true")]
        return [name for name in of_bool if name] or _names(_BRANCHES.search(self.attributes))

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes."""
        found = re.search(pattern, self.attributes)
        return found.group(1) if found else None


def _names(found: re.Match | None) -> list[str]:
    return re.findall(r"[\w.\-]+", found.group(1)) if found else []


class Computation:
    """A computation: its instructions in their order.

    Attributes:
        instructions: by name.
        users: for each instruction the ones that use its results.
    """

    def __init__(self):
        self.instructions: dict[str, Instruction] = {}

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @property
    def root(self) -> Instruction:
        return next(instruction for instruction in self if instruction.is_root)

    @property
    def parameters(self) -> list[Instruction]:
        """The parameters in the order of the arguments."""
        return sorted((i for i in self if i.op == "parameter"), key=lambda i: int(i.argument))

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self:
            for name in dict.fromkeys(instruction.operands):
                users[name].append(instruction)
        return users

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands]


class Module:
    """A compiled program.

    Args:
        text: from `jax.stages.Compiled.as_text`.
        package: source lines are those of the files in this folder.

    Attributes:
        computations: by name.
        entry: the computation that is the program.
    """

    def __init__(self, text: str, package: Path = _PACKAGE):
        self.computations: dict[str, Computation] = {}
        current = None
        for line in text.splitlines():
            if line.startswith(("%", "ENTRY")) and line.endswith("{"):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                current = self.computations[name] = Computation()
                if line.startswith("ENTRY"):
                    self.entry = current
            elif line.startswith("}"):
                current = None
            elif current is not None and (found := _INSTRUCTION.match(line)):
                instruction = _instruction(*found.groups())
                current.instructions[instruction.name] = instruction
        self._frames = _frames(text, package)

    def sources(self, instruction: Instruction) -> tuple[str, ...]:
        """Lines of the package that the instruction comes from, "model/stage.py:90", the innermost first."""
        frame = instruction.attribute(r"stack_frame_id=(\d+)")
        lines = []
        while frame in self._frames:
            path, line, frame = self._frames[frame]
            if path:
                lines.append(f"{path}:{line}")
        return tuple(lines)


def _instruction(root: str | None, name: str, text: str) -> Instruction:
    shape, text = _split(text) if text.startswith("(") else text.split(" ", 1)
    op, text = text.lstrip().split("(", 1)
    argument, attributes = _split("(" + text)
    argument = argument[1:-1]
    operands = () if op in ("constant", "parameter") else tuple(re.findall(r"%([\w.\-]+)", argument))
    return Instruction(name, op, arrays(shape), operands, attributes, argument, root is not None)


def _split(text: str) -> tuple[str, str]:
    """Splits behind the bracket that closes the first one."""
    depth = 0
    for bracket in re.finditer(r"[()]", text):
        depth += 1 if bracket.group() == "(" else -1
        if not depth:
            return text[: bracket.end()], text[bracket.end() :]
    raise ValueError(f"a bracket stays open in {text[:200]!r}")


def _frames(text: str, package: Path) -> dict[str | None, tuple[str, str, str]]:
    """The stack frames by number: file in the package or "" if it lies elsewhere, line, number of the parent frame."""

    def section(title):
        found = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.M)
        return found.group(1) if found else ""

    files = {
        number: str(Path(file).relative_to(package)) if Path(file).is_relative_to(package) else ""
        for number, file in re.findall(r'^(\d+) "(.*)"$', section("FileNames"), re.M)
    }
    places = {
        number: (files.get(file, ""), line)
        for number, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", section("FileLocations"), re.M
        )
    }
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", section("StackFrames"), re.M)
    # Frames count from 1, and so do their places in this list, but `parent_frame_id` is 1 where there is no parent.
    return {number: (*places.get(place, ("", "0")), str(int(parent or 1) - 1)) for number, place, parent in frames}
