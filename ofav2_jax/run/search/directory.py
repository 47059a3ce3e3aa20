"""A search's directory: whose search it is, what was proposed, and what was measured, so that it can go on at any time.

A round is written before its first evaluation, and every evaluation is on the disk before the next one begins.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ofav2_jax import files
from ofav2_jax.checks import refuse
from ofav2_jax.model.design import Design
from ofav2_jax.nas.records import Record
from ofav2_jax.run.run_directory import DifferentRunError, differing_fields, lock_directory

FORMAT = "ofav2_jax.search/1"
ARCHIVE, FINAL, ROUNDS = "archive.jsonl", "final.jsonl", "rounds"


@dataclasses.dataclass(frozen=True)
class Round:
    """Trunks that are to be evaluated, in this order, and what they were proposed for.

    Attributes:
        trunks: the trunks.
        question: the cost, the constraints and the latency table that they were proposed for.
        exit_sets: the sets of exits that the predictor knew; none in round 0, the start.
        predicted: for each trunk the predicted top-1 accuracy in % with each of these sets.
    """

    trunks: tuple[Design, ...]
    question: Mapping[str, Any]
    exit_sets: tuple[tuple[int, ...], ...] = ()
    predicted: tuple[tuple[float, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The content of its file; `from_json` is the inverse."""
        return {
            **self.question,
            "trunks": list(map(str, self.trunks)),
            "exit_sets": [list(exits) for exits in self.exit_sets],
            "predicted": [list(of_trunk) for of_trunk in self.predicted],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Round":
        """Reads what `as_json` returns.

        Raises:
            ValueError, KeyError, TypeError: for anything else.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(
            tuple(map(Design.parse, value["trunks"])),
            {name: each for name, each in value.items() if name not in known},
            tuple(map(tuple, value["exit_sets"])),
            tuple(map(tuple, value["predicted"])),
        )


class Journal:
    """A file of JSON, one value a line, to which lines are appended.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[Any]:
        """The values of all whole lines; one that was being written when its process was killed is not whole.

        Raises:
            ValueError: for another line that is no JSON, naming the file and the line.
        """
        values = []
        for number, line in enumerate(self._whole().splitlines(), 1):
            try:
                values.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self.path} cannot be read: line {number}: {error}") from error
        return values

    def _whole(self) -> bytes:
        content = self.path.read_bytes() if self.path.exists() else b""
        return content[: content.rfind(b"\n") + 1]

    def repair(self) -> None:
        """Drops a last line that is not whole."""
        if self.path.exists() and len(whole := self._whole()) < self.path.stat().st_size:
            os.truncate(self.path, len(whole))

    def append(self, value: Any) -> None:
        """Appends a line, and waits until it is on the disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(value).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class SearchDirectory:
    """The files of a search.

    Args:
        path: the directory; it need not be there yet.

    Attributes:
        rounds: the rounds so far, round 0 first.
        records: the evaluated trunks, in the order of the rounds.
        final: the scores on a whole split, by split and trunk.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rounds: list[Round] = []
        self.records: list[Record] = []
        self.final: dict[tuple[str, Design], Record] = {}
        self._archive, self._final = Journal(path / ARCHIVE), Journal(path / FINAL)
        self._lock: IO[str] | None = None

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuses a directory of another search, and reads what is there.

        Args:
            settings: what every evaluation and proposal depends on, as JSON.

        Raises:
            DifferentRunError: naming what differs.
            ValueError: for files that cannot be read or do not belong together.
        """
        path = self.path / files.SETTINGS
        if os.path.lexists(self.path) and not self.path.is_dir():
            refuse("search", str(self.path), "a directory")
        if path.exists():
            theirs = files.read_json(path)
            differing = differing_fields(json.loads(json.dumps(dict(settings))), theirs)
            if differing:
                raise DifferentRunError(
                    f"search={str(self.path)!r} is another search, give this one another name: {'; '.join(differing)}"
                )
        elif (self.path / ROUNDS).exists() or self._archive.path.exists():
            raise ValueError(f"search={str(self.path)!r} cannot be read: {files.SETTINGS} is missing")
        self._load()

    def _load(self) -> None:
        self.rounds, self.records, self.final = [], [], {}
        while (path := self._round_file(len(self.rounds))).exists():
            try:
                self.rounds.append(Round.from_json(files.read_json(path)))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} cannot be read: {files.reason(error)}") from error
        self.records = [record for record, _ in self._read(self._archive)]
        proposed = [trunk for each in self.rounds for trunk in each.trunks]
        for number, record in enumerate(self.records, 1):
            if number > len(proposed) or record.trunk != proposed[number - 1]:
                raise ValueError(f"{self._archive.path} cannot be read: line {number} is not what its round proposed")
        self.final = {(str(line.get("split")), record.trunk): record for record, line in self._read(self._final)}

    def _read(self, journal: Journal) -> list[tuple[Record, dict[str, Any]]]:
        found = []
        for number, line in enumerate(journal.read(), 1):
            try:
                found.append((Record.from_json(line), line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{journal.path} cannot be read: line {number}: {files.reason(error)}") from error
        return found

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Locks the directory until `release` or the end of the process, and makes it this search's.

        Args:
            settings: see `check`.

        Raises:
            DirectoryInUseError: naming the process that works there.
            DifferentRunError, ValueError: see `check`.
        """
        self._lock = lock_directory(self.path, "search")
        try:
            self.check(settings)
            for journal in (self._archive, self._final):
                journal.repair()
            if not (self.path / files.SETTINGS).exists():
                files.write_json(self.path / files.SETTINGS, dict(settings))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Unlocks the directory for other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def pending(self) -> list[Design]:
        """The trunks that were proposed and are not evaluated yet."""
        return [trunk for each in self.rounds for trunk in each.trunks][len(self.records) :]

    def add_round(self, proposed: Round) -> None:
        """Writes a round; its evaluations may begin afterwards."""
        path = self._round_file(len(self.rounds))
        files.write_json(path, proposed.as_json())
        with path.open("rb") as file:
            os.fsync(file.fileno())
        self.rounds.append(proposed)

    def add_record(self, record: Record) -> None:
        """Appends the evaluation of the first pending trunk."""
        self._archive.append({"round": self.round_of(len(self.records)), **record.as_json()})
        self.records.append(record)

    def round_of(self, place: int) -> int:
        """The round of a record."""
        ends = 0
        for number, each in enumerate(self.rounds):
            ends += len(each.trunks)
            if place < ends:
                return number
        raise ValueError(f"place={place} is not allowed: {ends} trunks were proposed")

    def add_final(self, split: str, record: Record) -> None:
        """Appends the scores of a trunk on a whole split."""
        self._final.append({"split": split, **record.as_json()})
        self.final[split, record.trunk] = record

    def _round_file(self, number: int) -> Path:
        return self.path / ROUNDS / f"{number:02d}.json"
