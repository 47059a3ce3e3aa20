"""All objects of a run, made from its settings, its data and its devices."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ofav2_jax.checks import local_path, refuse
from ofav2_jax.data.dataset import Dataset, Progress
from ofav2_jax.data.sources import load_dataset
from ofav2_jax.evaluate.design import DesignEvaluator
from ofav2_jax.evaluate.evaluator import Evaluator
from ofav2_jax.evaluate.recalibrate import recalibration_indices
from ofav2_jax.model.design import Design
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.runtime.feed import ImageFeed, image_feed
from ofav2_jax.runtime.programs import Programs, quick_compiler_options
from ofav2_jax.runtime.sharding import AXIS
from ofav2_jax.runtime.trace_cache import beside_compiled_programs
from ofav2_jax.settings.settings import Settings
from ofav2_jax.train.engines import ENGINES, Engine
from ofav2_jax.train.epoch import EpochRunner
from ofav2_jax.train.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Assembly:
    """All objects of a run; `assemble` makes them.

    Attributes:
        settings: the run's settings, in which dtype is not None.
        dataset: the images.
        devices: the run's devices, those of other processes included.
        net: the supernet.
        space: its subnets.
        programs: compiles programs and maps them over the devices.
        feed: makes the images available to the devices.
        step: one optimiser step, which `engine` runs.
        engine: draws and runs the sampled subnets of a step.
        design: what the run fine-tunes; None: it trains the supernet.
    """

    settings: Settings
    dataset: Dataset
    devices: Sequence[jax.Device]
    net: SuperNet
    space: SearchSpace
    programs: Programs
    feed: ImageFeed
    step: TrainStep
    engine: Engine
    design: Design | None = None

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Evaluates subnets; made when it is first used."""
        return Evaluator(self.net, self.settings, self.dataset, self.feed, self.programs)

    @functools.cached_property
    def design_evaluator(self) -> DesignEvaluator:
        """Evaluates the design that is fine-tuned."""
        assert self.design is not None
        common = self.net, self.design, self.dataset, self.feed, self.programs
        return DesignEvaluator(*common, self.evaluator)

    @functools.cached_property
    def epochs(self) -> EpochRunner:
        """Takes the steps of an epoch."""
        return EpochRunner(self.settings, self.dataset, self.feed, self.engine, self.devices)


def assemble(
    settings: Settings,
    dataset: Dataset,
    devices: Sequence[jax.Device] | None = None,
    *,
    net: SuperNet | None = None,
    programs: Programs | None = None,
    feed: ImageFeed | None = None,
) -> Assembly:
    """Makes all objects of a run; nothing is compiled, nothing is written.

    Args:
        settings: the run's settings.
        dataset: the run's data set.
        devices: the devices to use, those of other processes included; None: all that JAX sees.
        net: another supernet for the same subnets, for instance in float64; None: the supernet of the settings.
        programs: compiles programs for these devices in another way; None: `Programs`.
        feed: makes the images available to these devices in another way; None: `image_feed` chooses.

    Raises:
        ValueError: see `require_fit`; for a design that the network does not hold.
    """
    for field, value, kind in (("settings", settings, Settings), ("dataset", dataset, Dataset)):
        if not isinstance(value, kind):
            refuse(field, value, f"a {kind.__name__}")
    settings = with_definite_dtype(settings)
    design = _design_of(settings)
    devices = list(jax.devices() if devices is None else devices)
    require_fit(settings, dataset, len(devices))
    if net is None:
        dtype = jnp.dtype(settings.dtype)
        net = SuperNet(settings.network, settings.width_multiplier, dataset.num_classes, dtype=dtype)
    if programs is None:
        described = net, settings.recipe, dataset.normalisation, settings.evaluation.interpolate
        traces = beside_compiled_programs(devices, *described)
        programs = Programs(devices, settings.resolutions, traces)
    # A single device gets no axis and thus no sums over devices, which would still be operations.
    net = net.clone(axis_name=AXIS if len(devices) > 1 else None)
    step = TrainStep(net, settings.recipe, dataset.normalisation, programs, design)
    return Assembly(
        settings=settings,
        dataset=dataset,
        devices=devices,
        net=net,
        space=SearchSpace(net),
        programs=programs,
        feed=image_feed(dataset, devices) if feed is None else feed,
        step=step,
        engine=ENGINES[settings.engine](step, max(phase.num_subnets for phase in settings.phases), settings.sampling),
        design=design,
    )


def _design_of(settings: Settings) -> Design | None:
    """The design that the settings fine-tune.

    Raises:
        ValueError: if the network does not hold it, or it has another resolution.
    """
    if settings.design is None:
        return None
    design = Design.parse(settings.design)
    design.require_fit(SuperNet(settings.network))
    if settings.resolutions != (design.resolution,):
        refuse("resolutions", settings.resolutions, f"({design.resolution},), that of the design")
    return design


def with_definite_dtype(settings: Settings) -> Settings:
    """Replaces dtype=None: float32 on a CPU, bfloat16 on accelerators, which compute several times as fast in it."""
    if settings.dtype is not None:
        return settings
    return dataclasses.replace(settings, dtype="float32" if jax.default_backend() == "cpu" else "bfloat16")


def require_divisible(settings: Settings, num_devices: int) -> None:
    """Refuses a batch size that the number of devices does not divide; needs no data.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    if settings.batch_size % num_devices:
        refuse("batch_size", settings.batch_size, f"divisible by the {num_devices} devices")


def require_fit(settings: Settings, dataset: Dataset, num_devices: int) -> None:
    """Refuses settings that do not fit the data or the devices.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    require_divisible(settings, num_devices)
    num_images = len(dataset.splits["train"])
    if num_images < settings.batch_size:
        raise ValueError(f"batch_size={settings.batch_size} is not allowed: there are {num_images} training images")
    recalibration_indices(dataset, settings.evaluation, settings.seed)


def dataset_of(
    settings: Settings,
    data_dir: str | os.PathLike | None = None,
    archive: str | os.PathLike | None = None,
    progress: Progress | None = None,
    plan_only: bool = False,
    check: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """Loads the data set that settings name.

    Args:
        settings: a run's settings.
        data_dir: see `load_dataset`; so are the others.
        archive: a local copy of Tiny ImageNet's archive.
        progress: is called while images are decoded.
        plan_only: decode nothing and write nothing.
        check: is called before anything is decoded, too.
    """
    # The fields of these settings are arguments of `load_dataset`.
    fields = {field.name: getattr(settings.data, field.name) for field in dataclasses.fields(settings.data)}
    data_dir = None if data_dir is None else local_path("data.data_dir", data_dir)
    archive = None if archive is None else local_path("data.archive", archive)
    return load_dataset(
        fields.pop("dataset"),
        seed=settings.seed,
        data_dir=data_dir,
        archive=archive,
        progress=progress,
        plan_only=plan_only,
        check=check,
        **fields,
    )


def initial_params(net: SuperNet, seed: int) -> Params:
    """Random parameters of the whole supernet."""
    return _jitted_init()(net, jax.random.key(seed))


@functools.cache
def _jitted_init():
    # Made when it is first needed, because its compiler options depend on the backend.
    def init(net, key):
        return net.init(key, jnp.zeros((1, 32, 32, 3)), Subnet.uniform())["params"]

    return jax.jit(init, static_argnums=0, compiler_options=quick_compiler_options())
