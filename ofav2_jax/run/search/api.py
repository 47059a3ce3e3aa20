"""`search`: finds good subnets of a run's supernet, or of one from elsewhere."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from ofav2_jax import files
from ofav2_jax.checks import local_path, refuse
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.nas.costs import COSTS, Constraint, LatencyTable
from ofav2_jax.nas.progress import SearchReporter
from ofav2_jax.nas.result import SearchResult
from ofav2_jax.nas.settings import SearchSettings
from ofav2_jax.run.opened import OpenedRun
from ofav2_jax.run.search.search import Search
from ofav2_jax.run.search.source import Source, source_of_net, source_of_run
from ofav2_jax.settings.settings import Settings


@overload
def search(
    source: OpenedRun,
    /,
    *,
    name: str = "default",
    phase: str | None = None,
    cost: str = "macs",
    constraints: Sequence[str | Constraint] = (),
    exits: str = "single",
    budget: int = 200,
    images: int = 5000,
    seed: int = 0,
    table: LatencyTable | None = None,
    reporter: SearchReporter | None = None,
) -> SearchResult: ...
@overload
def search(
    source: SuperNet,
    variables: Mapping[str, Any],
    dataset: Dataset,
    directory: str | os.PathLike,
    /,
    *,
    settings: Settings | None = None,
    cost: str = "macs",
    constraints: Sequence[str | Constraint] = (),
    exits: str = "single",
    budget: int = 200,
    images: int = 5000,
    seed: int = 0,
    table: LatencyTable | None = None,
    reporter: SearchReporter | None = None,
) -> SearchResult: ...
def search(source: Any, *args: Any, **kwargs: Any) -> SearchResult:
    """Finds designs that are as accurate as possible at every cost, with few evaluations.

    From a run, `search(run)`; it is kept in the run's directory, `search/NAME`.

        name: the search's name.
        phase: the phase whose parameters are used, and whose choices are searched; None: the last one that has ended.

    From variables, `search(net, variables, dataset, directory)`, for instance those of `load_torch`:

        variables: {"params", ...} of the supernet `net`; statistics of batch norm are recomputed.
        dataset: images and labels in three splits, see `Dataset.from_arrays`.
        directory: where the search is kept.
        settings: give the resolutions, the recalibration, the augmentation and the seed; None: the paper's for this
            network, with its resolutions of 48, 56 and 64 pixels.

    From both:

        cost: what is minimised beside the error: "macs", "params" or "latency".
        constraints: for instance ["macs<=3M", "params<=500k"]; each is a question by itself.
        exits: "single": one exit each; "any": every set of exits, whose logits are averaged.
        budget: how many trunks to evaluate in all, those of earlier calls included.
        images: validation images that each of them is scored with.
        seed: other seeds try other subnets.
        table: latencies of a device, for the cost "latency" and constraints on it.
        reporter: receives the progress; None: nobody.

    Called again, it goes on where it was stopped or killed; with a larger budget it evaluates more; with other costs
    and constraints it answers from what was evaluated. Candidates are scored on validation images; the test split is
    used once, at the end, for the front.

    Returns:
        The front, and the best design for each constraint, beside the best uniform subnets; with costs, validation and
        test accuracy.

    Raises:
        ValueError: for arguments that are not allowed, a constraint that no subnet meets, or a directory that belongs
            to another search; nothing is evaluated or written then.
    """
    return make_search(source, *args, **kwargs).run()


def make_search(
    source: Any,
    *args: Any,
    cost: str = "macs",
    constraints: Sequence[str | Constraint] = (),
    exits: str = "single",
    budget: int = 200,
    images: int = 5000,
    seed: int = 0,
    table: LatencyTable | None = None,
    reporter: SearchReporter | None = None,
    **kwargs: Any,
) -> Search:
    """The search of `search`, which takes the same arguments, before it begins; nothing is written."""
    settings = SearchSettings(cost, constraints, exits, budget, images, seed)  # type: ignore[arg-type]
    settings.require_costs(COSTS[:2] if table is None else COSTS)
    if isinstance(source, OpenedRun):
        directory, open_source = _of_run(source, *args, **kwargs)
    elif isinstance(source, SuperNet):
        directory, open_source = _of_net(source, *args, **kwargs)
    else:
        raise ValueError(f"source is a {type(source).__name__}, which is not allowed: it must be a run or a SuperNet")
    opened = open_source()
    if table is not None:
        table.require_fit(opened.net, opened.settings.resolutions)
    return Search(opened, settings, directory, table, reporter)


def _of_run(run: OpenedRun, *, name: str = "default", phase: str | None = None) -> tuple[Path, Callable[[], Source]]:
    return search_directory(run.directory, name), lambda: source_of_run(run, phase)


def _of_net(
    net: SuperNet,
    variables: Mapping[str, Any],
    dataset: Dataset,
    directory: str | os.PathLike,
    *,
    settings: Settings | None = None,
) -> tuple[Path, Callable[[], Source]]:
    return local_path("directory", directory), lambda: source_of_net(net, variables, dataset, settings)


def search_directory(run: Path, name: Any, field: str = "name") -> Path:
    """The directory of a run's search.

    Args:
        run: the run's directory.
        name: the search's name.
        field: what names it, for messages.

    Raises:
        ValueError: for a name that is none of a directory.
    """
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", "..") or name != Path(name).name:
        refuse(field, name, "a directory's name without '/'")
    return run / files.SEARCHES / name
