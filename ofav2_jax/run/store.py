"""Everything that a run saves in its directory: checkpoints, results, teachers, measurements.

If there are several processes, the first one reads and writes, and broadcasts to the others what they need.
"""

import contextlib
import functools
import logging
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.run import checkpoint
from ofav2_jax.run.run_directory import RunDirectory
from ofav2_jax.runtime import processes
from ofav2_jax.settings.settings import Settings


class Store:
    """The directory of a run: `state/` (checkpoints), `phases/` (results, teachers), JSON files.

    Args:
        workdir: the directory; created.
        settings: the run's settings.
        data: the fingerprint of the run's data, see `data.dataset.fingerprint`.

    Raises:
        DifferentRunError, DirectoryInUseError: see `RunDirectory.claim`.
    """

    def __init__(self, workdir: Path, settings: Settings, data: dict[str, Any]):
        self._phases = settings.phases
        self._directory = RunDirectory(workdir)
        self._checkpoints: checkpoint.RunState | None = None
        if processes.is_first():
            self._directory.claim(settings, data)
            self._checkpoints = checkpoint.RunState(workdir / files.STATE)

    # --- checkpoints -------------------------------------------------------------------------------------------

    def save(self, number: int, arrays: Any, progress: dict[str, Any]) -> None:
        """See `checkpoint.RunState.save`."""
        if self._checkpoints is not None:
            self._checkpoints.save(number, arrays, progress)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """See `checkpoint.RunState.restore`."""
        restored = self._checkpoints.restore(like) if self._checkpoints is not None else None
        arrays, progress = restored or (None, None)
        progress = processes.broadcast(lambda: progress)
        if progress is None:
            return None
        return processes.broadcast_arrays(lambda: arrays, like), progress

    @property
    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint, or None; None in all processes but the first."""
        return None if self._checkpoints is None else self._checkpoints.latest

    def wait(self) -> None:
        """See `checkpoint.RunState.wait`."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def release(self) -> None:
        """Unlocks the directory for other processes."""
        self._directory.release()

    # --- results -----------------------------------------------------------------------------------------------

    def _phase_dir(self, index: int) -> Path:
        return files.phase_directory(self._directory.path, index, self._phases[index].name)

    def save_phase(self, index: int, params: Any, result: dict[str, Any]) -> None:
        """Saves the parameters and the result of a phase in the phase's directory."""
        if processes.is_first():
            checkpoint.save_tree(self._phase_dir(index) / files.PHASE_PARAMS, params)
            files.write_json(self._phase_dir(index) / files.PHASE_RESULT, result)

    def params(self, index: int, like: Any) -> Any:
        """The parameters with which phase `index` ended; `like` is a tree of arrays (or shapes) of their structure."""
        directory = self._phase_dir(index) / files.PHASE_PARAMS
        return processes.broadcast_arrays(lambda: checkpoint.load_tree(directory, like), like)

    def teacher(self, index: int, source: int, like: Any) -> Any:
        """The teacher of phase `index`: the parameters of phase `source`, of which phase `index` saves a copy.

        Args:
            index: index of the phase that learns from the teacher.
            source: index of the phase that trained it.
            like: a tree of arrays (or shapes) of the same structure.
        """
        return processes.broadcast_arrays(functools.partial(self._teacher, index, source, like), like)

    def _teacher(self, index: int, source: int, like: Any) -> Any:
        directory = self._phase_dir(index) / files.PHASE_TEACHER
        if directory.exists():
            try:
                return checkpoint.load_tree(directory, like)
            except checkpoint.CorruptCheckpointError as error:
                logging.warning("%s: taken again from phase %s", error, self._phases[source].name)
        params = checkpoint.load_tree(self._phase_dir(source) / files.PHASE_PARAMS, like)
        checkpoint.save_tree(directory, params)
        return params

    def save_results(self, name: str, params: Any, further: dict[str, Any]) -> dict[str, Any]:
        """Writes `results.json` for the whole run; returns its content."""

        def write():
            phases = range(len(self._phases))
            results = {
                "name": name,
                "phases": [files.read_json(self._phase_dir(index) / files.PHASE_RESULT) for index in phases],
                "params_sha256": checkpoint.digest(params),
                **further,
            }
            files.write_json(self._directory.path / files.RESULTS, results)
            return results

        return processes.broadcast(write)

    def results(self) -> dict[str, Any] | None:
        """The content of `results.json`; None if it was not written yet, or cannot be read."""

        def read():
            with contextlib.suppress(ValueError):
                return files.read_json(self._directory.path / files.RESULTS, ("name", "phases", "params_sha256"))

        return processes.broadcast(read)

    # --- measurements ------------------------------------------------------------------------------------------

    def add_record(self, record: dict[str, Any]) -> None:
        """See `RunDirectory.add_record`."""
        if processes.is_first():
            self._directory.add_record(record)

    def keep_records(self, last_step: int) -> None:
        """See `RunDirectory.keep_records`."""
        if processes.is_first():
            self._directory.keep_records(last_step)
