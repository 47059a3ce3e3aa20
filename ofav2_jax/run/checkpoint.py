"""Checkpoints: the running state of a run, and the result and teacher of each phase, written by Orbax.

A checkpoint is a step of an Orbax CheckpointManager: arrays, and a small JSON with a digest of the arrays. Orbax
writes into a temporary directory and renames it, so that a run that is killed while saving leaves the checkpoint
before it; the digest finds what was damaged later.
"""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ofav2_jax import files

_KEPT = 3
_CHANGED = "its arrays are not those that were saved"


class CorruptCheckpointError(Exception):
    """A checkpoint that cannot be read, or whose arrays are not those that were saved."""


def digest(tree: Any) -> str:
    """SHA-256 over the names, types, shapes and values of a tree's arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


# Only the first process of a run reads and writes: nothing here waits for the others.
_ALONE = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix="first_process"
)


def save_tree(directory: Path, tree: Any) -> None:
    """Saves arrays under a readable name, once and for all; replaces what is there.

    Raises:
        OSError: if they cannot be written.
    """
    host = jax.tree.map(np.asarray, tree)
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_ALONE) as checkpointer:
            checkpointer.save(directory.absolute(), {"arrays": host, "digest": _digest_array(host)}, force=True)
    except Exception as error:  # Orbax and TensorStore raise many types for files that cannot be written
        raise OSError(f"{directory} cannot be written: {_first_line(error)}") from error


def load_tree(directory: Path, like: Any) -> Any:
    """Loads what `save_tree` saved.

    Args:
        directory: where.
        like: a tree of arrays (or shapes) of the same structure.

    Raises:
        CorruptCheckpointError: naming the directory, if it cannot be read or holds something else.
    """
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_ALONE) as checkpointer:
            saved = checkpointer.restore(directory.absolute(), {"arrays": like, "digest": _digest_array({})})
    except Exception as error:  # Orbax and TensorStore raise many types for unreadable files
        raise CorruptCheckpointError(f"{directory} cannot be read: {_first_line(error)}") from error
    if not np.array_equal(saved["digest"], _digest_array(saved["arrays"])):
        raise CorruptCheckpointError(f"{directory} is damaged: {_CHANGED}")
    return saved["arrays"]


def _digest_array(tree: Any) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(digest(tree)), np.uint8)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class RunState:
    """The running state of a run, in checkpoints whose numbers rise as it goes on.

    Args:
        directory: where; created.
    """

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        # Orbax creates no directory where it waits for no other process.
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT, create=False, enable_async_checkpointing=True, multiprocessing_options=_ALONE
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, number: int, arrays: Any, progress: dict[str, Any]) -> None:
        """Saves in the background; returns once `arrays` have been copied.

        What cannot be saved, for instance because the disk is full, is a warning: the checkpoints before it stay.

        Args:
            number: of the checkpoint, above that of every checkpoint before it.
            arrays: everything that is trained.
            progress: where the run stands, as JSON.
        """
        host = jax.tree.map(np.asarray, arrays)
        meta = {**progress, "digest": digest(host)}
        self.wait()
        try:
            self._manager.save(
                number, args=ocp.args.Composite(arrays=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(meta))
            )
        except OSError as error:
            self._give_up(error)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint that is whole; damaged ones are named in a warning and moved to `damaged/`.

        Args:
            like: arrays (or shapes) of the saved structure.

        Returns:
            Arrays and progress, or None if nothing was ever saved.

        Raises:
            CorruptCheckpointError: if checkpoints are there but none is whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            try:
                restored = self._read(step, like)
            except Exception as error:  # Orbax and TensorStore raise many types for unreadable files
                logging.warning(
                    "checkpoint %s is damaged (%s): using the one before it", self._path(step), _first_line(error)
                )
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return restored
        if steps:
            raise CorruptCheckpointError(f"none of the checkpoints in {self.directory} can be read")
        return None

    def _set_aside(self, steps):
        for step in steps:
            target = self.directory.parent / files.DAMAGED / str(step)
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            self._path(step).rename(target)
        self._manager.reload()

    def _path(self, step):
        return self.directory / str(step)

    def _read(self, step, like):
        restored = self._manager.restore(
            step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        )
        progress = dict(restored["meta"])
        if digest(restored["arrays"]) != progress.pop("digest"):
            raise CorruptCheckpointError(_CHANGED)
        return restored["arrays"], progress

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint, if any."""
        step = self._manager.latest_step()
        return None if step is None else self._path(step)

    def wait(self) -> None:
        """Returns once everything that can be saved is on disk."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # as in save_tree
            self._give_up(error)

    def _give_up(self, error):
        last = self.latest
        logging.warning(
            "a checkpoint could not be saved (%s): the run goes on, and tries again later; %s",
            _first_line(error),
            "there is none yet" if last is None else f"the last one is {last}",
        )
        # What was written of it may be what fills the disk.
        for partial in self.directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Waits, and frees what Orbax holds."""
        self._manager.close()
