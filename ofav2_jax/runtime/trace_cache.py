"""Keeps traced programs in a directory, so that a process that starts again need not trace them once more.

Tracing is Python's work and takes seconds for each program, also for one whose compiled form is cached: JAX finds
that only by what tracing yields.
"""

import functools
import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax import export

# All of the package: a program depends on modules in other folders than this one.
_PACKAGE = Path(__file__).parents[1]
_DIGEST_SIZE = hashlib.sha256().digest_size


class TraceCache:
    """A directory of traced programs.

    A file is used only for the same program: the same source of this package, versions of what it is built on,
    settings of JAX, devices, arguments' shapes, and `described`. It holds StableHLO, which is data and not code
    to execute here; one that is damaged is written anew.

    Args:
        directory: where; created once there is something to keep.
        devices: of the programs.
        described: everything else that a program depends on and its name does not say: networks, recipes, ... Each
            has to have a `repr` that tells all of it.
    """

    def __init__(self, directory: Path, devices: Sequence[jax.Device], *described: Any):
        self._directory = directory
        kinds = [device.device_kind for device in devices]
        self._described = [_code(), jax.default_backend(), kinds, *map(repr, described)]

    def lower(self, name: str, function: Callable, donate: tuple[int, ...], args: Sequence[Any]) -> jax.stages.Lowered:
        """What `jax.jit(function, donate_argnums=donate).lower(*args)` returns, without tracing if it is kept.

        Args:
            name: of the program; the same name and shapes always stand for the same function.
            function: is traced if necessary.
            donate: positions of the arguments that the program may overwrite.
            args: its arguments.
        """
        leaves, structure = jax.tree.flatten(args)
        shapes = [str(jax.typeof(leaf)) for leaf in leaves]
        identity = json.dumps([*self._described, _jax_settings(), name, str(structure), shapes])
        file = self._directory / hashlib.sha256(identity.encode()).hexdigest()
        exported = _read(file)
        if exported is None:
            # Of leaves, because files can describe only containers whose types have names there.
            traced = jax.jit(lambda *leaves: function(*jax.tree.unflatten(structure, leaves)))
            exported = export.export(traced)(*leaves)
            _write(file, exported)

        def program(*args):
            return exported.call(*jax.tree.leaves(args))

        return jax.jit(program, donate_argnums=donate).lower(*args)


def name_in_files(kind: type) -> None:
    """Gives a struct that programs return a name in the files of a `TraceCache`, which know only those with names."""
    export.register_pytree_node_serialization(
        kind,
        serialized_name=f"ofav2_jax.{kind.__name__}",
        serialize_auxdata=lambda _: b"",
        deserialize_auxdata=lambda _: (),
    )


def beside_compiled_programs(devices: Sequence[jax.Device], *described: Any) -> TraceCache | None:
    """Traces in the directory where JAX keeps compiled programs; None where it keeps none there.

    Also None for one process of several, which have to compile the very same programs, whatever one of them has kept.

    Args:
        devices: see `TraceCache`.
        *described: see `TraceCache`.
    """
    directory = jax.config.values["jax_compilation_cache_dir"]
    is_local = directory and "://" not in directory
    if not is_local or not jax.config.values["jax_enable_compilation_cache"] or jax.process_count() > 1:
        return None
    return TraceCache(Path(directory) / "traces", devices, *described)


@functools.cache
def _code() -> list[str]:
    """What every program is made of: this package and what it is built on."""
    source = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        source.update(str(file.relative_to(_PACKAGE)).encode() + b"\0" + file.read_bytes())
    return [source.hexdigest(), *(f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "optax"))]


def _jax_settings() -> list[str]:
    """What may change a trace; not where caches are."""
    return [f"{name} {value}" for name, value in sorted(jax.config.values.items()) if "cache" not in name]


def _read(file: Path) -> export.Exported | None:
    """What is kept there, if it can be read and is whole."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, data = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    return export.deserialize(bytearray(data)) if hashlib.sha256(data).digest() == digest else None


def _write(file: Path, exported: export.Exported) -> None:
    data = bytes(exported.serialize())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Of its own, because another process may be keeping the same program; nothing is left of what fails.
        with tempfile.TemporaryDirectory(dir=file.parent) as own:
            partial = Path(own) / file.name
            partial.write_bytes(hashlib.sha256(data).digest() + data)
            partial.replace(file)
    except OSError as error:
        warnings.warn(f"a traced program could not be kept: {error}", stacklevel=2)
