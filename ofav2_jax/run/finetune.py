"""`finetune`: trains one design of a supernet further, in a run of its own."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ofav2_jax.checks import local_path, refuse
from ofav2_jax.model.design import Design
from ofav2_jax.model.packing import Params
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.run import checkpoint
from ofav2_jax.run.assembly import with_definite_dtype
from ofav2_jax.run.opened import OpenedRun
from ofav2_jax.run.reporter import Reporter
from ofav2_jax.run.run import Run
from ofav2_jax.runtime import processes
from ofav2_jax.settings.finetuning import Finetuning
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.settings import Settings


def finetune(
    supernet: OpenedRun,
    design: Design,
    workdir: str | os.PathLike,
    *,
    phase: str | None = None,
    devices: Sequence[jax.Device] | None = None,
    reporter: Reporter | None = None,
    checkpoint_every_s: float = 60.0,
    **tuning: Any,
) -> Run:
    """Prepares the fine-tuning of a design; `execute` of what is returned trains and tests it.

    Only what the design uses is trained, at its resolution, from the supernet's parameters; everything else stays as it
    is, bit for bit. The design learns from the labels and from the supernet's maximal network as it was. The epoch that
    is best on the validation images is kept, or the start if none is better.

    Args:
        supernet: the run of the supernet, which is only read.
        design: what is fine-tuned.
        workdir: the directory of the new run; if it was begun there already, it goes on. `open_run` opens it.
        phase: the phase of `supernet` whose parameters are the start; None: the last one, if the run is finished.
        devices: see `Run`.
        reporter: see `Run`.
        checkpoint_every_s: see `Run`.
        **tuning: any of the fields of `Finetuning`: `learning_rate`, `epochs`, ...

    Raises:
        ValueError: see `require_tunable`, `Finetuning` and `Run`.
        DifferentRunError, DirectoryInUseError: see `RunDirectory.claim`.
    """
    require_tunable(supernet, design, workdir, phase)
    settings, start = tuned_settings(supernet, design, phase, from_nested(Finetuning, tuning))
    return Run(settings, supernet.dataset, workdir, devices, reporter, checkpoint_every_s, start)


def require_tunable(supernet: OpenedRun, design: Design, workdir: str | os.PathLike, phase: str | None) -> Path:
    """Refuses what cannot be fine-tuned; needs no data. Returns the directory of the new run.

    Raises:
        ValueError: for a run that is not a supernet's, or is not finished where no phase is named, a design or a
            resolution that it does not have, and a directory inside of it.
    """
    if not isinstance(supernet, OpenedRun):
        refuse("supernet", supernet, "an opened run")
    supernet.require_supernet()
    supernet.require_phase(phase)
    if phase is None and not supernet.is_finished:
        raise ValueError(
            f"{supernet.directory}: the run is not finished; name the phase to start from: {', '.join(supernet.phases)}"
        )
    supernet.require_design(design)
    path = local_path("workdir", workdir)
    if path.resolve().is_relative_to(supernet.directory.resolve()):
        refuse("workdir", str(path), f"outside of {supernet.directory}, which is only read")
    return path


def tuned_settings(
    supernet: OpenedRun, design: Design, phase: str | None, tuning: Finetuning
) -> tuple[Settings, Params]:
    """The settings of a run that fine-tunes a design, and the parameters with which it starts.

    Of several processes the first one reads the parameters.

    Raises:
        checkpoint.CorruptCheckpointError: if the parameters are not those that were saved.
    """
    shapes = variable_shapes(supernet.net)["params"]
    start = processes.broadcast_arrays(lambda: supernet.saved_params(phase), shapes)
    settings = tuning.settings(supernet.settings, str(design), design.resolution, checkpoint.digest(start))
    return with_definite_dtype(settings), start
