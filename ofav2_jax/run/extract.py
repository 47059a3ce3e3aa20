"""`extract`: takes a network out of a supernet's variables, or out of a run, which then recalibrates and tests it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.checks import refuse
from ofav2_jax.data.augment import Normalisation, eval_images
from ofav2_jax.deploy.extract import Extraction
from ofav2_jax.deploy.standalone import IMAGENET, Standalone
from ofav2_jax.evaluate.exits import label_rank
from ofav2_jax.model.design import Design
from ofav2_jax.model.supernet import SuperNet, Variables
from ofav2_jax.run import checkpoint
from ofav2_jax.run.opened import OpenedRun
from ofav2_jax.runtime.programs import compiler_options

_SPLITS = ("validation", "test")


@overload
def extract(source: OpenedRun, design: Design, /, *, phase: str | None = None) -> Standalone: ...
@overload
def extract(
    source: SuperNet,
    variables: Variables,
    design: Design,
    /,
    *,
    class_names: Sequence[str] | None = None,
    normalisation: Normalisation = IMAGENET,
) -> Standalone: ...
def extract(source: Any, *args: Any, **kwargs: Any) -> Standalone:
    """Takes a network out of a supernet.

    From a run, `extract(run, design)`: the statistics of batch norm are recomputed with the run's own images, crops and
    flips, as in its tests, and the network is tested on its validation and test images.

        phase: the phase whose parameters are used; None: the last one that has ended.

    From variables, `extract(net, variables, design)`, as they are:

        variables: {"params", "batch_stats"} of the supernet `net`; the statistics are those of this design's subnet, as
            `recalibrate` returns them.
        class_names: names of the classes, or None.
        normalisation: of the images with which the supernet was trained, for `Standalone.predict` and exported
            networks.

    Returns:
        The network.

    Raises:
        ValueError: for a design that the network or the run does not hold, another one than that which the run has
            fine-tuned, and variables without the statistics.
    """
    of_source = _from_run if isinstance(source, OpenedRun) else _from_variables
    return of_source(source, *args, **kwargs)


def _from_variables(
    net: SuperNet,
    variables: Variables,
    design: Design,
    class_names: Sequence[str] | None = None,
    normalisation: Normalisation = IMAGENET,
    about: dict[str, Any] | None = None,
    resized: int | None = None,
) -> Standalone:
    if not isinstance(net, SuperNet):
        raise ValueError(f"source is a {type(net).__name__}, which is not allowed: it must be a SuperNet or a run")
    if not isinstance(design, Design):
        refuse("design", design, "a Design")
    taken = Extraction(net, variables, design)
    supernet = {"network": net.network, "width_multiplier": net.width_multiplier, "exit_widths": net.exit_widths}
    return Standalone(
        design=design,
        layers=tuple(taken.layers),
        arrays=taken.arrays,
        outputs=taken.outputs,
        num_classes=net.num_classes,
        class_names=None if class_names is None else tuple(class_names),
        normalisation=Normalisation(*normalisation),
        about={"supernet": supernet, **(about or {})},
        resized=resized,
    )


def _from_run(run: OpenedRun, design: Design, phase: str | None = None) -> Standalone:
    run.require_design(design)
    name = run.phases[-1] if phase is None and run.phases else phase
    params, dataset = run.params(phase), run.dataset
    recalibration = run.evaluator.recalibration
    variables = {"params": params, "batch_stats": recalibration.of_subnet(params, design.subnet, design.resolution)}
    batches, batch_size = recalibration.indices.shape
    about = {
        "run": {"name": run.settings.name, "phase": name, "params_sha256": checkpoint.digest(params)},
        "dataset": dataset.name,
        "base_resolution": dataset.images.shape[1],
        "recalibration": {"images": batches * batch_size, "batch_size": batch_size, "seed": run.settings.seed},
    }
    resized = run.evaluator.resized[design.resolution]
    alone = _from_variables(run.net, variables, design, dataset.class_names, dataset.normalisation, about, resized)
    return _with_accuracies(alone, run)


def _with_accuracies(alone: Standalone, run: OpenedRun) -> Standalone:
    correct, dataset = _correct_program(alone), run.dataset
    accuracies = {}
    for split in _SPLITS:
        number = len(dataset.splits[split])
        found = 0
        for indices, counted in run.evaluator.batches(split):
            batch = indices.ravel()
            found += int(correct(np.asarray(dataset.images[batch]), dataset.labels[batch], counted.ravel()))
        accuracies[split] = {"top1": 100 * found / number, "images": number}
    about = {**alone.about, "accuracy": accuracies}
    return dataclasses.replace(alone, about=about)


def _correct_program(alone: Standalone):
    """A function of one batch: how many images are classified as their labels say, counted as the evaluator does."""

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def correct(arrays, pixels, labels, counted):
        images = eval_images(pixels, alone.design.resolution, alone.normalisation, alone.resized)
        logits = alone.function(arrays, images).mean(0)
        return jnp.sum((label_rank(logits, labels) < 1) & counted)

    return functools.partial(correct, alone.arrays_on_device)
