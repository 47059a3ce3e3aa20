"""Lowers the programs of a run for a device that is not there: the product's own functions, called with shapes."""

import contextlib
import dataclasses
import resource
from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks.aot.targets import Target
from benchmarks.train_step import NUM_SUBNETS
from ofav2_jax import Dataset, Settings
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.ops.backend import traced_for
from ofav2_jax.run.ahead import describe_step, describe_test
from ofav2_jax.run.assembly import Assembly, assemble
from ofav2_jax.runtime.described import DescribedImages, DescribedPrograms, zeros
from ofav2_jax.runtime.programs import Programs, compiler_options
from ofav2_jax.settings.recipe import Evaluation

# As in Tiny ImageNet. So many that an operation which touches all of them shows.
NUM_IMAGES, SIZE, NUM_CLASSES = 110_000, 64, 200
IMAGE_BYTES = NUM_IMAGES * SIZE * SIZE * 3

PHASES = (*NUM_SUBNETS, "recalibrate", "test")


def processor_seconds() -> float:
    """Processor time of this process and of the ones that it started: the GPU's assembler may be one."""
    used = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compiled.

    Attributes:
        network: a network of Table II.
        width_multiplier: scales the numbers of channels.
        batch_size: images per step.
        resolution: height and width of the images, pixels.
        evaluation: says the batch sizes of recalibration and test.
    """

    network: str = "ee_d"
    width_multiplier: float = 1.0
    batch_size: int = 200
    resolution: int = 64
    evaluation: Evaluation = Evaluation()


def lower(setting: Setting, phase: str, target: Target) -> tuple[jax.stages.Lowered, float]:
    """Lowers the program of one phase, with activations in bfloat16.

    Args:
        setting: network and sizes.
        phase: one of `PHASES`.
        target: the device.

    Returns:
        The program, and the processor seconds that tracing took.
    """
    programs: dict[str, jax.stages.Lowered] = {}
    seconds = 0.0

    def take(name, resolution, trace):
        nonlocal seconds
        started = processor_seconds()
        programs[name] = trace()
        seconds += processor_seconds() - started
        return programs[name].out_info

    with traced_for(target.platform), _whole_tracebacks():
        parts = _described(setting, target, take)
        if phase in NUM_SUBNETS:
            describe_step(parts, NUM_SUBNETS[phase])
        else:
            describe_test(parts, setting.evaluation.subnets_per_pass)
    # A test lowers the recalibration before it, too.
    (lowered,) = (lowered for name, lowered in programs.items() if phase in NUM_SUBNETS or phase in name)
    return lowered, seconds


@contextlib.contextmanager
def _whole_tracebacks() -> Iterator[None]:
    """Lets operations name every line that they come from: the innermost ten may all be those of libraries."""
    limit = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", -1)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def compile_for(target: Target, lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, float]:
    """Compiles a program with the options of the product and of the target; also returns the processor seconds."""
    with traced_for(target.platform):
        options = {**compiler_options(), **target.options}
    started = processor_seconds()
    compiled = lowered.compile(options)
    return compiled, processor_seconds() - started


def _described(setting: Setting, target: Target, take: Callable) -> Assembly:
    indices = np.arange(NUM_IMAGES, dtype=np.int32)
    # One batch of validation images, so that the test's program is lowered once.
    size = setting.evaluation.batch_size
    splits = {"train": indices[2 * size :], "validation": indices[:size], "test": indices[size : 2 * size]}
    dataset = Dataset(
        name="described",
        images=zeros((NUM_IMAGES, SIZE, SIZE, 3), np.uint8),
        labels=indices % NUM_CLASSES,
        splits=splits,
        num_classes=NUM_CLASSES,
        normalisation=Normalisation((0.5,) * 3, (0.25,) * 3),
    )
    settings = Settings.paper(
        setting.network,
        width_multiplier=setting.width_multiplier,
        batch_size=setting.batch_size,
        resolutions=(setting.resolution,),
        dtype="bfloat16",
        evaluation=setting.evaluation,
    )
    programs = DescribedPrograms(Programs([target.device()], settings.resolutions), take)
    feed = DescribedImages(dataset, programs, streamed=False)
    return assemble(settings, dataset, programs.devices, programs=programs, feed=feed)
