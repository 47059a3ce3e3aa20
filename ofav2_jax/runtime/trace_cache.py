"""Caches traced programs in a directory, so that a process that starts again need not trace them once more.

Tracing runs in Python and takes seconds for each program, even for one whose compiled form is cached: JAX finds that
form only by the result of tracing.
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

# The whole package, because a program depends on modules in other folders than this one.
_PACKAGE = Path(__file__).parents[1]
_DIGEST_SIZE = hashlib.sha256().digest_size


class TraceCache:
    """A directory of traced programs.

    A file is used only for the same program: the same source of this package, versions of its dependencies, settings
    of JAX, devices, arguments' shapes, and `described`. It holds StableHLO, which is data and not code to execute
    here. A damaged file is replaced.

    Args:
        directory: the directory; created when the first program is written.
        devices: the devices of the programs.
        described: everything else that a program depends on and that its name does not say: networks, recipes, ... The
            `repr` of each must describe it completely.
    """

    def __init__(self, directory: Path, devices: Sequence[jax.Device], *described: Any):
        self._directory = directory
        kinds = [device.device_kind for device in devices]
        self._described = [_code(), jax.default_backend(), kinds, *map(repr, described)]

    def lower(self, name: str, function: Callable, donate: tuple[int, ...], args: Sequence[Any]) -> jax.stages.Lowered:
        """Returns `jax.jit(function, donate_argnums=donate).lower(*args)`, without tracing if the trace is cached.

        Args:
            name: the program's name; the same name and shapes always stand for the same function.
            function: the function, which is traced if necessary.
            donate: positions of the arguments that the program may overwrite.
            args: the function's arguments.
        """
        leaves, structure = jax.tree.flatten(args)
        shapes = [str(jax.typeof(leaf)) for leaf in leaves]
        identity = json.dumps([*self._described, _jax_settings(), name, str(structure), shapes])
        file = self._directory / hashlib.sha256(identity.encode()).hexdigest()
        exported = _read(file)
        if exported is None:
            exported = exported_program(function, args)
            _write(file, exported)

        def program(*args):
            return exported.call(*jax.tree.leaves(args))

        return jax.jit(program, donate_argnums=donate).lower(*args)


def exported_program(
    function: Callable, args: Sequence[Any], platforms: Sequence[str] | None = None
) -> export.Exported:
    """What the files of a `TraceCache` hold: a function of the leaves of `args`.

    Args:
        function: the function, which is traced.
        args: its arguments, or their shapes.
        platforms: JAX's names of the platforms to export for; None: the present one.
    """
    leaves, structure = jax.tree.flatten(args)
    # A function of leaves, because a file can describe only containers whose types have a name in files.
    traced = jax.jit(lambda *leaves: function(*jax.tree.unflatten(structure, leaves)))
    # JAX does not promise that its other versions understand it. But a file is read only by the version that wrote it.
    unpromised = [export.DisabledSafetyCheck.custom_call("LayoutConstraint")]
    return export.export(traced, platforms=platforms, disabled_checks=unpromised)(*leaves)


def name_in_files(kind: type) -> None:
    """Names a struct that programs return, because the files of a `TraceCache` describe only types with a name."""
    export.register_pytree_node_serialization(
        kind,
        serialized_name=f"ofav2_jax.{kind.__name__}",
        serialize_auxdata=lambda _: b"",
        deserialize_auxdata=lambda _: (),
    )


def beside_compiled_programs(devices: Sequence[jax.Device], *described: Any) -> TraceCache | None:
    """A cache of traces inside the directory where JAX caches compiled programs.

    Args:
        devices: see `TraceCache`.
        *described: see `TraceCache`.

    Returns:
        The cache; None if JAX caches no programs in a local directory. Also None if there are several processes: they
        must compile the very same programs, whatever one of them has cached.
    """
    directory = jax.config.values["jax_compilation_cache_dir"]
    is_local = directory and "://" not in directory
    if not is_local or not jax.config.values["jax_enable_compilation_cache"] or jax.process_count() > 1:
        return None
    return TraceCache(Path(directory) / "traces", devices, *described)


@functools.cache
def _code() -> list[str]:
    """Identifies the code of every program: a digest of this package, and the versions of its dependencies."""
    source = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        source.update(str(file.relative_to(_PACKAGE)).encode() + b"\0" + file.read_bytes())
    return [source.hexdigest(), *(f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "optax"))]


def _jax_settings() -> list[str]:
    """The settings of JAX that may change a trace; those of its caches do not."""
    return [f"{name} {value}" for name, value in sorted(jax.config.values.items()) if "cache" not in name]


def _read(file: Path) -> export.Exported | None:
    """The traced program in a file, or None if the file cannot be read or is damaged."""
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
        # In a temporary directory of its own, because another process may be writing the same program. If writing
        # fails, nothing is left behind.
        with tempfile.TemporaryDirectory(dir=file.parent) as own:
            partial = Path(own) / file.name
            partial.write_bytes(hashlib.sha256(data).digest() + data)
            partial.replace(file)
    except OSError as error:
        warnings.warn(f"a traced program could not be kept: {error}", stacklevel=2)
