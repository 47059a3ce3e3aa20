"""Measures how the code is put together: import levels between rooms, lengths of modules and functions.

    python -m tests.helpers.structure

A room is a folder of `ofav2_jax` or a module that lies directly in it, and each of experiments/, configs/ and
benchmarks/. A room's level is 1 if it imports no other room, else one more than the highest level that it imports.
"""

import ast
import functools
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "ofav2_jax"
_FOLDERS = (PACKAGE, "experiments", "configs", "benchmarks")


def sources() -> dict[str, Path]:
    """The Python files of the product by module name."""
    files = [file for folder in _FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def unspecified_encodings() -> dict[str, list[int]]:
    """By module name the lines on which a text file is opened, read or written without naming its encoding."""
    return {
        name: [
            node.lineno
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and _is_text(node) and "encoding" not in {k.arg for k in node.keywords}
        ]
        for name, file in sources().items()
    }


def _is_text(call: ast.Call) -> bool:
    name, base = "", ""
    if isinstance(call.func, ast.Attribute):
        name, base = call.func.attr, getattr(call.func.value, "id", "")
    elif isinstance(call.func, ast.Name):
        name = call.func.id
    if name in ("read_text", "write_text"):
        # Others than those of paths are `files.write_text`, which has an encoding.
        return isinstance(call.func, ast.Attribute) and base != "files"
    modes = [*call.args[: 2 if base == "" else 1], *(k.value for k in call.keywords if k.arg == "mode")]
    is_binary = any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
    return name == "open" and base not in ("Image", "os", "tarfile") and not is_binary


def room_of(module: str) -> str:
    """The room that a module belongs to."""
    return ".".join(module.split(".")[: 2 if module.startswith(f"{PACKAGE}.") else 1])


def imports_of(module: str, file: Path, modules: Collection[str]) -> Iterator[str]:
    """The modules of the product, all of which are given, that a module imports, also inside of functions."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(_FOLDERS))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            if base.startswith(_FOLDERS):
                # Of a package either a module of it is imported, or a name from its `__init__`.
                names = (f"{base}.{alias.name}" for alias in node.names)
                yield from (name if name in modules else base for name in names)


def arrows() -> dict[str, set[str]]:
    """For each room the others that it imports."""
    found: dict[str, set[str]] = {}
    modules = sources()
    for module, file in modules.items():
        others = set(map(room_of, imports_of(module, file, modules)))
        found.setdefault(room_of(module), set()).update(others - {room_of(module)})
    return found


def levels() -> dict[str, int]:
    """The level of each room.

    Raises:
        RecursionError: if rooms import each other in a circle.
    """
    graph = arrows()

    @functools.cache
    def level(room: str) -> int:
        return 1 + max((level(other) for other in graph[room]), default=0)

    return {room: level(room) for room in graph}


def functions() -> dict[str, int]:
    """The length of each function in lines, without its docstring."""
    lengths = {}
    for module, file in sources().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node, clean=False)
                lines = node.end_lineno - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
                lengths[f"{module}.{node.name}, line {node.lineno}"] = lines
    return lengths


def main() -> None:
    """Prints all of it."""
    by_level: dict[int, list[str]] = {}
    for room, level in levels().items():
        by_level.setdefault(level, []).append(room)
    for level in sorted(by_level, reverse=True):
        print(f"{level:>2}  {', '.join(sorted(by_level[level]))}")
    print(f"{max(by_level)} levels, {sum(map(len, arrows().values()))} arrows between {len(levels())} rooms")
    modules = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in sources().items()}
    for what, lengths in (("module", modules), ("function", functions())):
        name = max(lengths, key=lengths.__getitem__)
        print(f"longest {what}: {lengths[name]} lines, {name}")


if __name__ == "__main__":
    main()
