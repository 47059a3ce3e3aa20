"""Lowers the programs of a run for a device that is not there: the product's own functions, called with shapes."""

import contextlib
import dataclasses
import resource
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.aot.targets import Target
from benchmarks.train_step import NUM_SUBNETS
from ofav2_jax import Dataset, Settings
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.ops.backend import traced_for
from ofav2_jax.run.assembly import Assembly, assemble
from ofav2_jax.runtime.feed import Images
from ofav2_jax.runtime.programs import Programs, compiler_options
from ofav2_jax.runtime.sharding import AXIS, sharding_over
from ofav2_jax.settings.recipe import Evaluation
from ofav2_jax.train.step import StepInputs

# As in Tiny ImageNet. So many that an operation which touches all of them shows.
NUM_IMAGES, SIZE, NUM_CLASSES = 110_000, 64, 200
IMAGE_BYTES = NUM_IMAGES * SIZE * SIZE * 3

PHASES = (*NUM_SUBNETS, "recalibrate", "test")


def _zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that take no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def processor_seconds() -> float:
    """Processor time of this process and of the ones that it started: the GPU's assembler may be one."""
    used = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class CompileOnlyPrograms(Programs):
    """Programs that are lowered when they would run; their results are zeros.

    Attributes:
        lowered: the programs by name.
        seconds: processor seconds spent on tracing them.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        super().__init__(devices, ())
        self.lowered: dict[str, jax.stages.Lowered] = {}

    def replicate(self, tree: Any) -> Any:
        """Shapes of replicated arrays."""
        return jax.tree.map(lambda x: _described(x, self.devices), tree)

    def shard(self, array: np.ndarray) -> Any:
        """The shape of an array that is sharded over the devices."""
        return _described(array, self.devices, AXIS)

    def run(
        self, name: str, resolution: int, make: Callable[[int], Any], *args: Any, donate: tuple[int, ...] = ()
    ) -> Any:
        """Lowers the program for this resolution; see `Programs.run`."""
        return self.run_single(name, make(resolution), *args, donate=donate)

    def run_single(self, name: str, function: Any, *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """Lowers the function; see `Programs.run_single`."""

        def described(x):
            return x if isinstance(x, jax.ShapeDtypeStruct) and x.sharding is not None else _described(x, self.devices)

        started = processor_seconds()
        lowered = self.lower(name, function, donate, jax.tree.map(described, args))
        self.seconds += processor_seconds() - started
        self.lowered[name] = lowered
        return jax.tree.map(lambda x: _zeros(x.shape, x.dtype), lowered.out_info)


def _described(x: Any, devices: Sequence[jax.Device], *axes: str) -> jax.ShapeDtypeStruct:
    # Of a typed PRNG key `result_type` gives no dtype.
    dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
    return jax.ShapeDtypeStruct(jnp.shape(x), dtype, sharding=sharding_over(devices, *axes))


class DescribedImages:
    """The images of the whole data set on every device, as shapes; see `feed.ResidentImages`."""

    def __init__(self, dataset: Dataset, programs: Programs):
        self._programs = programs
        self._data = programs.replicate(Images.of(dataset.images, dataset.labels))

    def batch(self, indices: np.ndarray) -> tuple[Images, Any]:
        """See `ImageFeed`."""
        return self._data, self._programs.shard(indices)


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
    programs = CompileOnlyPrograms([target.device()])
    parts = _assembled(setting, programs)
    with traced_for(target.platform), _whole_tracebacks():
        if phase in NUM_SUBNETS:
            _step(parts, NUM_SUBNETS[phase], setting)
        else:
            _evaluate(parts, setting)
    # A test lowers the recalibration before it, too.
    (lowered,) = (lowered for name, lowered in programs.lowered.items() if phase in NUM_SUBNETS or phase in name)
    return lowered, programs.seconds


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


def _assembled(setting: Setting, programs: CompileOnlyPrograms) -> Assembly:
    indices = np.arange(NUM_IMAGES, dtype=np.int32)
    # One batch of test images, so that the test's program is lowered once.
    splits = {"train": indices, "validation": indices, "test": indices[: setting.evaluation.batch_size]}
    dataset = Dataset(
        name="described",
        images=_zeros((NUM_IMAGES, SIZE, SIZE, 3), np.uint8),
        labels=_zeros((NUM_IMAGES,), np.int32),
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
    feed = DescribedImages(dataset, programs)
    return assemble(settings, dataset, programs.devices, programs=programs, feed=feed)


def _step(parts: Assembly, num_subnets: int, setting: Setting) -> None:
    params = variable_shapes(parts.net)["params"]
    key = jax.random.key(0)
    images, places = parts.feed.batch(_zeros((1, setting.batch_size), np.int32))
    inputs = StepInputs(images, places, key, np.float32(0.1))
    if num_subnets:
        choices = parts.engine.draw(key, parts.space, num_subnets)
        inputs = inputs.replace(teacher=params, choices=choices)  # type: ignore[attr-defined]
    parts.engine(jax.eval_shape(parts.step.init_state, params), inputs, setting.resolution)


def _evaluate(parts: Assembly, setting: Setting) -> None:
    trunks = list(parts.space.restrict(height=(5,)).uniform_subnets())[: setting.evaluation.subnets_per_pass]
    parts.evaluator.score(variable_shapes(parts.net)["params"], trunks, setting.resolution, "test")
