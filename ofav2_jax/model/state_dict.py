"""Reads PyTorch state dicts, also as training loops leave them: inside of a checkpoint, under longer names."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ofav2_jax.checks import local_path, shown

# PyTorch counts the batches that a batch norm has seen; nothing here needs it.
_IGNORED = "num_batches_tracked"
_LFS_POINTER = b"version https://git-lfs"
_MAX_DEPTH = 4


def read_state_dict(source: Any, namings: Sequence[Collection[str]]) -> tuple[str, dict[str, Any], int]:
    """Finds the entries of a network.

    Args:
        source: see `torch_weights.load_torch`.
        namings: the names of the network's entries; several sets where different programs name them differently.

    Returns:
        Where the entries are, for messages; the entries by their names without a common prefix such as `module.`: of
        the only container with a prefix under which there are all names, else of the one with most of them; and the
        index of the naming.

    Raises:
        ValueError: if the source is a file that cannot be read, or if there are several sets of all names.
    """
    told, state = _read(source)
    found = {
        (naming, place): entries
        for naming, names in enumerate(namings)
        for place, entries in _candidates(state, frozenset(names), "", _MAX_DEPTH)
    }
    num_found = {key: sum(name in entries for name in namings[key[0]]) for key, entries in found.items()}
    whole = [place for (naming, place), number in num_found.items() if number == len(namings[naming])]
    if len(whole) > 1:
        places = " and ".join(repr(place) for place in whole)
        raise ValueError(f"{told} holds the weights of {len(whole)} such networks, under {places}: give one of them")
    naming, place = max(found, key=lambda key: num_found[key])
    return told + f" under {place!r}" * bool(place), found[naming, place], naming


def host_array(value: Any) -> np.ndarray:
    """An array of a state dict as NumPy's; a PyTorch tensor that requires a gradient or lies on a GPU refuses that."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    try:
        return np.asarray(value)
    except TypeError:
        # PyTorch's bfloat16, which NumPy does not have.
        if not hasattr(value, "float"):
            raise
        return np.asarray(value.float())


def _candidates(
    state: Mapping[Any, Any], names: frozenset[str], place: str, depth: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a mapping and of those inside, once for each prefix that stands before some of the names."""
    flat = {str(name): value for name, value in state.items() if not isinstance(value, Mapping)}
    flat = {name: value for name, value in flat.items() if not name.endswith(_IGNORED)}
    prefixes = {name[:start] for name in flat for start in _starts(name) if name[start:] in names}
    if not place:
        prefixes.add("")
    for prefix in sorted(prefixes):
        entries = {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
        yield place + prefix, entries
    if depth:
        for name, value in state.items():
            if isinstance(value, Mapping):
                yield from _candidates(value, names, f"{place}{name}/", depth - 1)


def _starts(name: str) -> list[int]:
    return [0, *(i + 1 for i, character in enumerate(name) if character == ".")]


def _read(source: Any) -> tuple[str, Mapping[Any, Any]]:
    if isinstance(source, Mapping):
        return "the state dict", source
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"source={shown(source)} is not allowed: it must be a .safetensors file or a mapping")
    path = local_path("source", source)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"source={str(source)!r} is not allowed: it must be a .safetensors file or a mapping. Loading a pickled "
            "checkpoint (.pth, .pt, .bin) can execute code: convert it with safetensors.torch.save_file first"
        )
    try:
        return f"the state dict in {path}", load_file(path)
    except SafetensorError as error:
        pointer = "it is a Git LFS pointer: fetch the weights with `git lfs pull`"
        reason = pointer if _is_lfs_pointer(path) else str(error)
        raise ValueError(f"{path} is not a safetensors file, or not a whole one: {reason}") from error
    except KeyError as error:
        raise ValueError(f"{path} cannot be read: it holds arrays of the type {error}") from error
    except OSError as error:
        reason = "it is a directory" if path.is_dir() else str(error)
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER
