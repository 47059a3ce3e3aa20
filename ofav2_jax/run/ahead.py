"""The programs of a run before they are needed: traced from shapes, and compiled while the run trains.

On a TPU a program compiles for minutes. A run needs those of its first phase, of a test, and of the other phases; it
waits only for the first of them.
"""

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.run.assembly import Assembly, assemble
from ofav2_jax.runtime.described import DescribedImages, DescribedPrograms, zeros
from ofav2_jax.runtime.feed import StreamedImages
from ofav2_jax.train.step import StepInputs


def described(parts: Assembly, take: Callable[[str, int | None, Callable[[], jax.stages.Lowered]], Any]) -> Assembly:
    """The same objects, but what would be computed is traced and given to `take`; see `DescribedPrograms`."""
    programs = DescribedPrograms(parts.programs, take)
    feed = DescribedImages(parts.dataset, programs, isinstance(parts.feed, StreamedImages))
    return assemble(parts.settings, parts.dataset, parts.devices, net=parts.net, programs=programs, feed=feed)


def describe_step(parts: Assembly, num_subnets: int, num_steps: int = 1) -> None:
    """Takes steps in one dispatch, with objects that `described` made.

    Args:
        parts: the objects.
        num_subnets: of each step; 0: they are steps of phase full.
        num_steps: how many steps the dispatch takes at most.
    """
    settings, key = parts.settings, jax.random.key(0)
    rate: Any = np.float32(0)
    if num_steps > 1:
        key, rate = jax.random.split(key, num_steps), np.zeros(num_steps, np.float32)
    params = variable_shapes(parts.net)["params"]
    state = jax.eval_shape(parts.step.init_state, params)
    shape = len(parts.devices), num_steps * settings.batch_size // len(parts.devices)
    inputs = StepInputs(*parts.feed.batch(zeros(shape, np.int32)), key, rate)
    if num_subnets:
        choices = parts.engine.draw(key, parts.space, num_subnets)
        inputs = inputs.replace(teacher=params, choices=choices)  # type: ignore[attr-defined]
    if num_steps > 1:
        parts.engine.several(state, inputs, num_steps, settings.resolutions[0])
    else:
        parts.engine(state, inputs, settings.resolutions[0])


def describe_test(parts: Assembly, num_trunks: int) -> None:
    """Evaluates subnets that are so many different trunks, with objects that `described` made."""
    trunks = list(parts.space.restrict(height=(5,)).uniform_subnets())[:num_trunks]
    params = variable_shapes(parts.net)["params"]
    parts.evaluator.score(params, trunks, parts.settings.resolutions[0], "validation")


def compile_ahead(parts: Assembly) -> threading.Thread | None:
    """Starts to trace and compile all programs of a run, in the order in which it will need them.

    Returns:
        The thread that traces them; None for the static engine, whose programs are not known before subnets are drawn,
        and where a design is fine-tuned, which needs no program that its first step and validation do not.
    """
    settings = parts.settings
    if settings.engine != "masked" or parts.design is not None:
        return None

    def take(name: str, resolution: int | None, trace: Callable[[], jax.stages.Lowered]) -> Any:
        lowered = trace()
        parts.programs.compile_ahead(name, resolution, lowered)
        return lowered.out_info

    def trace_all():
        of_shapes = described(parts, take)
        describe_test(of_shapes, 1)
        for num_subnets in dict.fromkeys(phase.num_subnets for phase in settings.phases):
            describe_step(of_shapes, num_subnets, parts.engine.max_steps)
        describe_test(of_shapes, settings.evaluation.subnets_per_pass)

    thread = threading.Thread(target=trace_all, daemon=True)
    thread.start()
    return thread
