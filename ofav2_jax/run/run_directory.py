"""A run's directory: the run that it belongs to, the process that works in it, and its JSON files."""

import contextlib
import json
from pathlib import Path
from typing import IO, Any

from ofav2_jax import files
from ofav2_jax.checks import shown
from ofav2_jax.data.dataset import completed_fingerprint
from ofav2_jax.locking import LockedError, try_lock
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.settings import Settings


class DifferentRunError(ValueError):
    """A directory holds a run with other settings."""


class DirectoryInUseError(ValueError):
    """Another process works in the directory."""


class RunDirectory:
    """A run's files other than its checkpoints.

    Args:
        path: the directory; it need not be there yet.
    """

    def __init__(self, path: Path):
        self.path = path
        self._settings = path / files.SETTINGS
        self._data = path / files.DATA
        self._metrics = path / files.METRICS
        self._lock: IO[str] | None = None

    def check(self, settings: Settings) -> None:
        """Refuses a directory that belongs to another run.

        Raises:
            DifferentRunError: naming the fields that differ.
            ValueError: if the settings in the directory cannot be read, so that its run is unknown.
        """
        self._compare(self._settings, settings.as_json(), "with other settings")

    def _compare(self, path: Path, ours: Any, differing_in: str) -> None:
        if not path.exists():
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"workdir={str(self.path)!r} is not allowed: {path} is not readable ({error})") from error
        if path == self._settings:
            # Settings that an older version wrote lack the fields that were added since.
            with contextlib.suppress(ValueError):
                theirs = json.loads(json.dumps(from_nested(Settings, theirs).as_json()))
        elif isinstance(theirs, dict):
            theirs = completed_fingerprint(theirs, ours)
        differing = sorted(differing_fields(json.loads(json.dumps(ours)), theirs))
        if differing:
            raise DifferentRunError(
                f"workdir={str(self.path)!r} belongs to a run {differing_in}: {'; '.join(differing)}"
            )

    def claim(self, settings: Settings, fingerprint: dict[str, Any]) -> None:
        """Locks the directory for this run, until `release` or the end of the process, however that ends.

        Args:
            settings: the run's settings.
            fingerprint: the fingerprint of its data, see `data.dataset.fingerprint`.

        Raises:
            DirectoryInUseError: naming the process that holds the lock.
            DifferentRunError, ValueError: see `check`.
        """
        self._lock = lock_directory(self.path, "workdir")
        try:
            self.check(settings)
            self._compare(self._data, fingerprint, "on other data")
        except ValueError:
            self.release()
            raise
        for path, value in ((self._data, fingerprint), (self._settings, settings.as_json())):
            if not path.exists():
                files.write_json(path, value)

    def release(self) -> None:
        """Unlocks the directory for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def add_record(self, record: dict[str, Any]) -> None:
        """Appends a line to `metrics.jsonl`."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def keep_records(self, last_step: int) -> None:
        """Drops the lines of `metrics.jsonl` after `last_step`, as a resumed run takes those steps again."""
        if self._metrics.exists():
            lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last_step]
            files.write_text(self._metrics, "".join(kept))


def lock_directory(path: Path, field: str) -> IO[str]:
    """Makes a directory and locks it for this process, until the file that is returned is closed, however that happens.

    Args:
        path: the directory.
        field: what it is, for messages.

    Raises:
        DirectoryInUseError: naming the process that holds the lock.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / files.LOCK).open("a+", encoding="utf-8")
    try:
        # A run by itself needs no lock.
        try_lock(
            lock,
            f"the run goes on, but a second one in {path} would not be noticed; start none there, or mount the file "
            "system with locks",
        )
    except LockedError as owner:
        lock.close()
        raise DirectoryInUseError(f"{field}={str(path)!r} is in use by {owner}") from owner
    return lock


def differing_fields(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Descriptions of the leaves in which two nested dictionaries differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            difference
            for key in sorted(ours.keys() | theirs.keys())
            for difference in differing_fields(ours.get(key), theirs.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            difference
            for i, pair in enumerate(zip(ours, theirs))
            for difference in differing_fields(*pair, f"{prefix}[{i}]")
        ]
    return [] if ours == theirs else [f"{prefix} is {shown(theirs)} there and {shown(ours)} here"]
