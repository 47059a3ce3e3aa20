"""Checkpoints, written by Orbax: the state of a run under way, and the parameters and teacher of each phase.

A checkpoint is a step of an Orbax CheckpointManager: arrays, and a small JSON with a digest of the arrays. Orbax
writes into a temporary directory and renames it, so that a run that is killed while saving leaves the previous
checkpoint as it is. The digest detects arrays that were damaged later.
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


class CorruptCheckpointError(ValueError):
    """A checkpoint that cannot be read, or whose arrays are not those that were saved."""


def digest(tree: Any) -> str:
    """SHA-256 over the names, types, shapes and values of a tree's arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


# Only the first process of a run reads and writes, so that Orbax must not wait for the others.
_ALONE = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix="first_process"
)


def save_tree(directory: Path, tree: Any) -> None:
    """Saves a tree of arrays in a directory of its own, which is not a step of a CheckpointManager.

    Args:
        directory: the directory; replaced if it is there.
        tree: the arrays.

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
    """Loads a tree of arrays that `save_tree` saved.

    Args:
        directory: the directory.
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
    """The checkpoints of a run under way; their numbers rise as the run goes on.

    Args:
        directory: the directory of the checkpoints; created.
    """

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        # Orbax does not create the directory if it is told not to wait for other processes.
        self.directory.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT, create=False, enable_async_checkpointing=True, multiprocessing_options=_ALONE
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, number: int, arrays: Any, progress: dict[str, Any]) -> None:
        """Saves in the background; returns once `arrays` have been copied.

        If saving fails, for instance because the disk is full, that is logged as a warning; earlier checkpoints stay.

        Args:
            number: the checkpoint's number, above that of every earlier checkpoint.
            arrays: the arrays of the run's state.
            progress: the rest of the run's state, as JSON.
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
        """Loads the newest undamaged checkpoint; damaged ones are named in a warning and moved to `damaged/`.

        Args:
            like: a tree of arrays (or shapes) of the saved structure.

        Returns:
            Arrays and progress, or None if nothing was ever saved.

        Raises:
            CorruptCheckpointError: if there are checkpoints but all are damaged.
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
        """Waits until the last save has ended; a failure is logged as a warning."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise many types for files that cannot be written
            self._give_up(error)

    def _give_up(self, error):
        last = self.latest
        logging.warning(
            "a checkpoint could not be saved (%s): the run goes on, and tries again later; %s",
            _first_line(error),
            "there is none yet" if last is None else f"the last one is {last}",
        )
        # The part of it that was written may be what fills the disk.
        for partial in self.directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Waits until the last save has ended, and frees Orbax's resources."""
        self._manager.close()
