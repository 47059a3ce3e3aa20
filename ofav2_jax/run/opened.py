"""Opens a run's directory to look at the run's networks, data and scores."""

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.checks import did_you_mean, local_path, refuse, shown
from ofav2_jax.data.dataset import Dataset, completed_fingerprint, fingerprint
from ofav2_jax.evaluate.evaluator import Evaluator
from ofav2_jax.model.design import Design
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet, variable_shapes
from ofav2_jax.run import checkpoint
from ofav2_jax.run.assembly import Assembly, assemble, dataset_of
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.settings import Settings


class OpenedRun:
    """A run that is finished, stopped or under way; nothing is written, locked or trained.

    Attributes:
        directory: the run's directory.
        settings: the run's settings.
    """

    def __init__(self, directory: Path, settings: Settings, load: Callable[[Settings], Dataset]):
        self.directory = directory
        self.settings = settings
        self._load = load

    @property
    def phases(self) -> list[str]:
        """The names of the phases that have ended, in order."""
        return [phase.name for index, phase in enumerate(self.settings.phases) if self._result_file(index).is_file()]

    @property
    def is_finished(self) -> bool:
        """Whether all phases have ended."""
        return len(self.phases) == len(self.settings.phases)

    @property
    def design(self) -> Design | None:
        """The design that the run fine-tuned; None: it is a supernet's."""
        return None if self.settings.design is None else Design.parse(self.settings.design)

    def require_supernet(self) -> None:
        """Refuses a run that fine-tuned a design.

        Raises:
            ValueError: naming the directory and the design.
        """
        if self.design is not None:
            raise ValueError(f"{self.directory} is not the run of a supernet, but of {self.design}, fine-tuned")

    def require_design(self, design: Design) -> None:
        """Refuses a design that cannot be taken out of this run; needs no data.

        Raises:
            ValueError: for a subnet or a resolution that the run does not have, and any other design than the one that
                was fine-tuned, if one was: the weights have been changed for that one alone.
        """
        if not isinstance(design, Design):
            refuse("design", design, "a Design")
        if self.design not in (None, design):
            raise ValueError(
                f"design={str(design)!r} is not allowed: {self.directory} has fine-tuned {self.design}, and its "
                "weights are for that design alone"
            )
        design.require_fit(SuperNet(self.settings.network))
        resolutions = self.settings.resolutions
        if design.resolution not in resolutions:
            refuse("resolution", design.resolution, f"one of the run's: {', '.join(map(str, resolutions))}")

    @property
    def results(self) -> dict[str, Any]:
        """The content of `results.json`; before the run's end, its "name" and the "phases" that have ended."""
        path = self.directory / files.RESULTS
        if path.is_file():
            return files.read_json(path, ("name", "phases"))
        ended = [index for index in range(len(self.settings.phases)) if self._result_file(index).is_file()]
        return {"name": self.settings.name, "phases": [files.read_json(self._result_file(index)) for index in ended]}

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The run's images, loaded at the first access.

        Raises:
            ValueError: if they are not those that the run was started with.
        """
        try:
            dataset = self._load(self.settings)
        except (ValueError, OSError) as error:
            # Those of a config have the names `data.data_dir` and `data.archive`.
            if len(error.args) == 1:
                error.args = (re.sub(r"\bdata\.(data_dir|archive)=", r"\1=", str(error)),)
            raise
        found = json.loads(json.dumps(fingerprint(dataset)))
        recorded = completed_fingerprint(files.read_json(self.directory / files.DATA), found)
        differing = sorted(name for name in recorded if recorded[name] != found.get(name))
        if differing:
            raise ValueError(
                f"{self.directory} belongs to a run on other data: {', '.join(differing)} differ from those of "
                f"{dataset.name!r} here"
            )
        return dataset

    @functools.cached_property
    def _parts(self) -> Assembly:
        return assemble(self.settings, self.dataset)

    @property
    def net(self) -> SuperNet:
        """The supernet."""
        return self._parts.net.clone(axis_name=None)

    @property
    def space(self) -> SearchSpace:
        """All subnets of the supernet."""
        return self._parts.space

    @property
    def evaluator(self) -> Evaluator:
        """Evaluates subnets as the run itself does."""
        return self._parts.evaluator

    def params(self, phase: str | None = None) -> Params:
        """The parameters that a phase ended with.

        Args:
            phase: the phase's name; None: the last phase that has ended.

        Returns:
            The tree of parameters, "params" of the network's variables, replicated on all devices.

        Raises:
            ValueError: if there is no such phase, or it has not ended.
            checkpoint.CorruptCheckpointError: if the parameters are not those that were saved.
        """
        return replicate(self.saved_params(phase), self._parts.devices)

    def saved_params(self, phase: str | None = None) -> Params:
        """What `params` returns, before it is put on all devices."""
        name = self.require_phase(phase)
        names = [each.name for each in self.settings.phases]
        directory = files.phase_directory(self.directory, names.index(name), name) / files.PHASE_PARAMS
        return checkpoint.load_tree(directory, variable_shapes(self.net)["params"])

    def require_phase(self, phase: str | None = None) -> str:
        """The name of a phase that has ended; see `params`, which raises the same."""
        ended = self.phases
        if phase is None and not ended:
            raise ValueError(f"{self.directory}: no phase has ended yet")
        name = ended[-1] if phase is None else phase
        names = [each.name for each in self.settings.phases]
        if name not in names:
            raise ValueError(
                f"phase={shown(name)} is not allowed: the run's are {', '.join(names)}{did_you_mean(str(name), names)}"
            )
        if name not in ended:
            raise ValueError(f"phase={name!r} is not allowed: it has not ended; {', '.join(ended) or 'none'} have")
        return name

    def _result_file(self, index: int) -> Path:
        return files.phase_directory(self.directory, index, self.settings.phases[index].name) / files.PHASE_RESULT


def open_run(
    directory: str | os.PathLike,
    *,
    dataset: Dataset | None = None,
    data_dir: str | os.PathLike | None = None,
    archive: str | os.PathLike | None = None,
) -> OpenedRun:
    """Opens the directory of a run that is finished, stopped or under way.

    It only reads, takes no lock, and starts no training.

    Args:
        directory: the run's directory.
        dataset: the images, if the run was started with a data set of one's own, which has no name to load it by.
        data_dir: the directory of prepared data sets, if the run's data set is there; see `load_dataset`.
        archive: a local copy of Tiny ImageNet's archive; see `load_dataset`.

    Raises:
        ValueError: if `directory` is not a run's directory; names the file and the reason.
    """
    return open_named("directory", directory, dataset, data_dir, archive)


def open_named(
    field: str,
    directory: str | os.PathLike,
    dataset: Dataset | None = None,
    data_dir: str | os.PathLike | None = None,
    archive: str | os.PathLike | None = None,
) -> OpenedRun:
    """Opens a run as `open_run` does.

    Args:
        field: what names the directory, for messages: a command's flag.
        directory: see `open_run`.
        dataset: see `open_run`.
        data_dir: see `open_run`.
        archive: see `open_run`.
    """
    path = local_path(field, directory)
    for name, value in (("data_dir", data_dir), ("archive", archive)):
        if value is not None:
            local_path(name, value)
    file = path / files.SETTINGS
    if not file.is_file():
        raise ValueError(f"{field}={str(path)!r} is not a run directory: there is no {files.SETTINGS} in it")
    values = files.read_json(file)
    try:
        settings = from_nested(Settings, values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} does not hold a run's settings: {error}") from error
    load = functools.partial(dataset_of, data_dir=data_dir, archive=archive)
    return OpenedRun(path, settings, load if dataset is None else lambda _: dataset)
