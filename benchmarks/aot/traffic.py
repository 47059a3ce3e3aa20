"""What a compiled program executes: each operation, how often, and the bytes that it reads and writes."""

import dataclasses
import re
from collections.abc import Iterator

from benchmarks.aot.drawn import Drawn
from benchmarks.aot.hlo import Computation, Instruction, Module

# They do nothing when the program runs.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "add-dependency", "copy-done", "slice-done", "async-update", "async-done"),
}
_CALLS = {"call", "async-start"}
_SLICES = {"slice", "dynamic-slice", "gather"}
_UPDATE = "dynamic-update-slice"


@dataclasses.dataclass
class Operation:
    """An operation that takes time of its own; on a GPU a kernel, which is launched `times` times.

    Attributes:
        instruction: what XLA executes.
        times: how often in one run of the program, on average.
        read: bytes of main memory that it reads each time.
        written: bytes of main memory that it writes each time.
        kind: "copy", "fusion:Loop", "custom-call:...".
        op_name: JAX's name of the part that makes most of the bytes, or of the loop or conditional that it is in, if
            that says more.
        sources: lines of the package that this part comes from, the innermost first.
        skips: whether it is what runs in the place of something that is skipped.
        ms: milliseconds of all times together, by the name of the estimate.
    """

    instruction: Instruction
    times: float
    read: int
    written: int
    kind: str
    op_name: str
    sources: tuple[str, ...]
    skips: bool = False
    ms: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes that it reads and writes each time."""
        return self.read + self.written


@dataclasses.dataclass
class Unknown:
    """What a program does not say about itself.

    Attributes:
        loops: names of loops whose trip count is not known; their bodies are counted once.
        conditionals: names of those of which it is not known how often they choose which branch; the branch that makes
            the most bytes is counted every time.
    """

    loops: list[str] = dataclasses.field(default_factory=list)
    conditionals: list[str] = dataclasses.field(default_factory=list)


def operations(module: Module, drawn: Drawn | None = None) -> tuple[list[Operation], Unknown]:
    """Everything that a program executes.

    Args:
        module: the program.
        drawn: the subnets that it computes; None: not known.
    """
    walk = _Walk(module, drawn or Drawn())
    return list(walk.through(module.entry, _Place())), walk.unknown


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a computation is called: how often it runs, JAX's name of what calls it, and `Operation.skips`."""

    times: float = 1
    op_name: str = ""
    skips: bool = False

    def inside(self, instruction: Instruction, times: float = 1, skips: bool = False) -> "_Place":
        """The place of what an instruction calls so many times."""
        return _Place(self.times * times, self.name_of(instruction), self.skips or skips)

    def name_of(self, instruction: Instruction) -> str:
        """JAX's name of an instruction; that of the place if it has none, or one that only says less."""
        return self.op_name if self.op_name.startswith(instruction.op_name) else instruction.op_name


class _Walk:
    """Goes through everything that a program executes."""

    def __init__(self, module: Module, drawn: Drawn):
        self.unknown = Unknown()
        self._module = module
        self._drawn = drawn

    def through(self, computation: Computation, place: _Place) -> Iterator[Operation]:
        """The operations of a computation and of all that it calls."""
        for instruction in computation:
            if instruction.op == "while":
                body = self._module.computations[instruction.attribute(r"body=%?([\w.\-]+)") or ""]
                yield from self.through(body, place.inside(instruction, self._trip_count(instruction)))
            elif instruction.op == "conditional":
                yield from self._conditional(instruction, place)
            elif instruction.op in _CALLS:
                for name in instruction.called:
                    yield from self.through(self._module.computations[name], place.inside(instruction))
            elif instruction.op not in _FREE:
                read, written = traffic(self._module, computation, instruction)
                main = _main_part(self._module, instruction)
                sources = self._module.sources(main) or self._module.sources(instruction)
                name, kind = place.name_of(main), _kind(instruction)
                yield Operation(instruction, place.times, read, written, kind, name, sources, place.skips)

    def _trip_count(self, loop: Instruction) -> int:
        count = self._drawn.trip_count(loop.op_name)
        if count is None:
            count = trip_count(self._module, loop)
        if count is None:
            self.unknown.loops.append(loop.name)
        return 1 if count is None else count

    def _conditional(self, instruction: Instruction, place: _Place) -> Iterator[Operation]:
        branches = [self._module.computations[name] for name in instruction.branches]
        probability = self._drawn.probability(instruction.op_name)
        if probability is None:
            self.unknown.conditionals.append(instruction.name)
            of_branches = [list(self.through(branch, place.inside(instruction))) for branch in branches]
            yield from max(of_branches, key=lambda found: sum(o.instruction.num_bytes * o.times for o in found))
            return
        skipping, computing = branches
        if probability < 1:
            yield from self.through(skipping, place.inside(instruction, 1 - probability, skips=True))
        if probability > 0:
            yield from self.through(computing, place.inside(instruction, probability))


def trip_count(module: Module, loop: Instruction) -> int | None:
    """How often the body of a loop runs: as XLA says, else the largest number that its condition compares with."""
    known = loop.attribute(r'"known_trip_count":\{"n":"?(\d+)')
    if known:
        return int(known)
    condition = module.computations[loop.attribute(r"condition=%?([\w.\-]+)") or ""]
    called = [module.computations[name] for instruction in condition for name in instruction.called]
    constants = [i for each in (condition, *called) for i in each if i.op == "constant"]
    return max((int(i.argument) for i in constants if re.fullmatch(r"\d+", i.argument)), default=None)


def traffic(module: Module, computation: Computation, instruction: Instruction) -> tuple[int, int]:
    """The bytes of main memory that an instruction reads and writes.

    Of an operand that is only sliced, the slices count, at most all of it; of an array that is updated in place, the
    update. What lies in a memory of the core does not count.
    """
    written = sum(array.num_bytes for array in instruction.results if array.in_main_memory)
    operands = computation.operands(instruction)
    if instruction.op == "fusion":
        inner = module.computations[instruction.called[0]]
        pairs = zip(operands, inner.parameters)
        read = sum(_read(module, inner, parameter, _in_memory(operand)) for operand, parameter in pairs)
        return read, _written(module, inner, instruction)
    if instruction.op in _SLICES:
        sliced = min(instruction.num_bytes, _in_memory(operands[0]))
        return sliced + sum(map(_in_memory, operands[1:])), written
    if instruction.op == _UPDATE:
        return _in_memory(operands[1]), min(operands[1].num_bytes, written)
    if instruction.op == "copy-start":
        # Its results are the destination, the source, and a semaphore.
        destination, source = (a.num_bytes if a.in_main_memory else 0 for a in instruction.results[:2])
        return source, destination
    if instruction.op == "slice-start":
        # Its results are the source, the slice, and a semaphore.
        part = instruction.results[-2]
        return min(part.num_bytes, _in_memory(operands[0])), part.num_bytes if part.in_main_memory else 0
    if instruction.op == "custom-call" and len(instruction.results) > 1 and "__cublas" in instruction.attributes:
        # The second result is room for intermediate results, which few products need.
        written = instruction.results[0].num_bytes
    return sum(map(_in_memory, operands)), written


def _in_memory(instruction: Instruction) -> int:
    return sum(array.num_bytes for array in instruction.results if array.in_main_memory)


def _read(module: Module, computation: Computation, value: Instruction, whole: int) -> int:
    """Bytes that a computation reads of a value of `whole` bytes."""
    total = 0
    for user in computation.users[value.name]:
        if user.op in _SLICES and user.operands[0] == value.name:
            total += user.num_bytes
        elif user.op == "bitcast":
            total += _read(module, computation, user, whole)
        elif user.op == "convert" and user.num_bytes:
            # Of an array that is sliced after a conversion, only the slices are converted.
            total += whole * _read(module, computation, user, user.num_bytes) // user.num_bytes
        elif user.op == _UPDATE and user.operands[0] == value.name and value.name not in user.operands[1:]:
            pass
        elif user.op == "fusion":
            inner = module.computations[user.called[0]]
            uses = (parameter for name, parameter in zip(user.operands, inner.parameters) if name == value.name)
            total += sum(_read(module, inner, parameter, whole) for parameter in uses)
        else:
            return whole
    return min(total, whole)


def _written(module: Module, inner: Computation, fusion: Instruction) -> int:
    outputs = inner.operands(inner.root) if inner.root.op == "tuple" else [inner.root]
    if len(outputs) != len(fusion.results):
        return _in_memory(fusion)
    total = 0
    for output, array in zip(outputs, fusion.results):
        while output.op == "bitcast":
            (output,) = inner.operands(output)
        if array.in_main_memory:
            update = inner.operands(output)[1].num_bytes if output.op == _UPDATE else array.num_bytes
            total += min(update, array.num_bytes)
    return total


def _main_part(module: Module, instruction: Instruction) -> Instruction:
    """Of a fusion the named instruction inside that makes the most bytes, and of several the last one."""
    if instruction.op != "fusion":
        return instruction
    best, most = instruction, -1
    inner = module.computations[instruction.called[0]]
    for part in inner:
        # A name without "/" is one that many places share, like "reduce_sum".
        if part.op in _FREE or "/" not in part.op_name:
            continue
        size = (inner.operands(part)[1] if part.op == _UPDATE else part).num_bytes
        if size >= most:
            best, most = part, size
    return best


def _kind(instruction: Instruction) -> str:
    pattern = {"fusion": r"kind=k(\w+)", "custom-call": r'custom_call_target="([^"]+)"'}.get(instruction.op)
    detail = instruction.attribute(pattern) if pattern else None
    return f"{instruction.op}:{detail}" if detail else instruction.op


def float32_copies(module: Module, batch_size: int) -> list[str]:
    """Operations that write an activation out in float32 though it is a bfloat16 one, whichever memory they write to.

    An activation is an array of at least 5 dimensions, of which the last one is the batch.
    """
    found = []
    for operation in operations(module)[0]:
        instruction = operation.instruction
        inner = module.computations[instruction.called[0]] if instruction.op == "fusion" else None
        if inner is None:
            continue
        outputs = inner.operands(inner.root) if inner.root.op == "tuple" else [inner.root]
        for output in outputs:
            while output.op in ("bitcast", "copy", "reshape"):
                (output,) = inner.operands(output)
            dims = output.results[0].dims
            if output.op == "convert" and len(dims) >= 5 and dims[-1] == batch_size:
                (converted,) = inner.operands(output)
                if (converted.results[0].dtype, output.results[0].dtype) == ("bf16", "f32"):
                    found.append(f"{instruction.name}: {output.results[0]}, {output.op_name}")
    return found
