"""Extended Progressive Shrinking: one loop that trains every phase, tests it, and can be stopped at any moment."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.checks import refuse
from ofav2_jax.data.dataset import Dataset, epoch_order
from ofav2_jax.evaluate.evaluator import Evaluator, Score, uniform_scores
from ofav2_jax.model.channels import sort_channels, variable_shapes
from ofav2_jax.model.packing import Packing, Params, Vectors
from ofav2_jax.model.space import Choices, SearchSpace, Subnet
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.run.store import Store
from ofav2_jax.runtime import processes
from ofav2_jax.runtime.feed import image_feed, replicate
from ofav2_jax.runtime.programs import Programs, quick_compiler_options
from ofav2_jax.runtime.trace_cache import beside_compiled_programs
from ofav2_jax.settings.phases import Phase, learning_rate, space_after
from ofav2_jax.settings.settings import Settings
from ofav2_jax.train.step import ENGINES, Metrics, Recipe, Steps, TrainState

# Tags that keep the streams of random numbers apart.
_RESOLUTION, _SUBNETS, _IMAGES = 1, 2, 3


class NonFiniteLossError(Exception):
    """The loss became infinite or NaN."""


class StoppedError(Exception):
    """The run was asked to stop, and has saved where it stands."""


class Reporter(Protocol):
    """Told what happens; prints it, draws it, or nothing."""

    def phase_started(self, index: int, phase: Phase) -> None: ...
    def stepped(self, progress: "StepProgress") -> None: ...
    def epoch_ended(self, record: dict[str, Any]) -> None: ...
    def phase_ended(self, index: int, result: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class StepProgress:
    """Where a run stands after a step.

    Attributes:
        phase, num_phases: index (from 0) and number of phases.
        phase_name: its name.
        epoch, num_epochs: of the phase, from 0.
        loss: mean over the subnets of the last step.
        learning_rate: of that step.
        images_per_s: over this epoch so far.
        remaining_s: estimated training time left in the whole run.
    """

    phase: int
    num_phases: int
    phase_name: str
    epoch: int
    num_epochs: int
    loss: float
    learning_rate: float
    images_per_s: float
    remaining_s: float


def steps_per_epoch(settings: Settings, dataset: Dataset) -> int:
    """Full batches in the training split; the images of a last incomplete one sit out the epoch."""
    return len(dataset.splits["train"]) // settings.batch_size


def check_devices(settings: Settings, num_devices: int) -> None:
    """Refuses settings that do not fit the devices; needs no data.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    if settings.batch_size % num_devices:
        refuse("batch_size", settings.batch_size, f"divisible by the {num_devices} devices")


def check(settings: Settings, dataset: Dataset, num_devices: int) -> None:
    """Refuses settings that do not fit the data or the devices.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    check_devices(settings, num_devices)
    if not steps_per_epoch(settings, dataset):
        raise ValueError(
            f"batch_size={settings.batch_size} is not allowed: there are {len(dataset.splits['train'])} training images"
        )


def initial_params(net: SuperNet, seed: int) -> Params:
    """Random parameters of the whole supernet."""
    init = jax.jit(lambda key: net.init(key, jnp.zeros((1, 32, 32, 3)), Subnet.uniform())["params"])
    key = jax.random.key(seed)
    return init.lower(key).compile(quick_compiler_options())(key)


class Run:
    """A run in its directory, of which it may be one process of several.

    Args:
        settings: what to do.
        dataset: what to train on.
        workdir: the run's directory; created. If a run with the same settings is there, it is resumed.
        devices: which devices to use, those of other processes included.
        reporter: is told what happens.
        checkpoint_every_s: seconds between checkpoints inside an epoch.

    Raises:
        ValueError: see `check`.
        DifferentRunError, DirectoryInUseError: see `RunDirectory.claim`.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        workdir: Path,
        devices: Sequence[jax.Device],
        reporter: Reporter,
        checkpoint_every_s: float,
    ):
        check(settings, dataset, len(devices))
        splits = {name: indices.tolist() for name, indices in dataset.splits.items()}
        processes.check_same("settings", settings.as_json())
        processes.check_same("data", [dataset.images.shape, dataset.labels.tolist(), splits])
        self.settings = settings
        self._dataset = dataset
        self._reporter = reporter
        self._checkpoint_every_s = checkpoint_every_s
        self._store = Store(workdir, settings, dataset)

        self.net = SuperNet(
            settings.network, settings.width_multiplier, dataset.num_classes, dtype=jnp.dtype(settings.dtype)
        )
        traces = beside_compiled_programs(devices, self.net, settings.recipe, dataset.normalisation)
        self.programs = Programs(settings.resolutions, traces)
        self._steps = Steps(self.net, settings.recipe, dataset.normalisation, devices, self.programs)
        self._engine = ENGINES[settings.engine](self._steps)
        self._feed = image_feed(dataset, devices)
        self._evaluator = Evaluator(self._steps, settings.evaluation, dataset, self._feed, settings.seed)
        self._space = SearchSpace(self.net)
        self._steps_per_epoch = steps_per_epoch(settings, dataset)
        self._key = jax.random.key(settings.seed)
        self._param_shapes = variable_shapes(self.net)["params"]
        self._unpack = jax.jit(self._steps.packing.unpack, compiler_options=quick_compiler_options())
        self._saved_at = time.monotonic()
        self._stop = processes.StopRequest(devices)
        # Seconds by kind, over all the processes that worked on this run.
        self._seconds = {"compile": 0.0, "train": 0.0, "evaluate": 0.0}

    # --- the phases --------------------------------------------------------------------------------------------

    def execute(self) -> dict[str, Any]:
        """Trains and tests every phase that is left.

        Returns:
            What `results.json` holds.

        Raises:
            NonFiniteLossError: naming phase, step and the last checkpoint.
            StoppedError: after `request_stop`.
            checkpoint.CorruptCheckpointError: if there are checkpoints but none can be read.
        """
        try:
            progress = self._resume()
            while progress.phase < len(self.settings.phases):
                self._reporter.phase_started(progress.phase, self.settings.phases[progress.phase])
                self._train_phase(progress)
                self._reporter.phase_ended(progress.phase, self._test_phase(progress))
                progress = self._next_phase(progress)
                self._save(progress)
            self._store.wait()
            seconds = {kind: round(seconds, 1) for kind, seconds in self._seconds_by_kind().items()}
            further = {"compiled_programs": len(self.programs), "seconds": seconds}
            return self._store.save_results(self.settings.name, self._unpack(progress.best), further)
        finally:
            self._store.release()

    def request_stop(self) -> None:
        """Makes `execute` save and raise `StoppedError` after the step at hand. Can be called from a signal handler."""
        self._stop.request()

    @property
    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint, if there is one; only the first process knows."""
        return self._store.latest_checkpoint

    def _resume(self) -> "_Progress":
        start = functools.partial(_arrays_at_start, net=self.net, recipe=self.settings.recipe, width_phase=0)
        restored = self._store.restore(jax.eval_shape(start, self._param_shapes))
        if restored is None:
            self._store.keep_records(0)
            arrays = start(initial_params(self.net, self.settings.seed))
            return self._progress_from(arrays, {"phase": 0, "step": 0, "best_score": -1.0})
        arrays, position = restored
        self._seconds = position.pop("seconds")
        progress = self._progress_from(arrays, position)
        self._store.keep_records(self._steps_since_start(progress))
        return progress

    def _progress_from(self, arrays, position):
        arrays = replicate(arrays, self._steps.devices)
        return _Progress(**position, state=TrainState(arrays["params"], arrays["opt_state"]), best=arrays["best"])

    def _next_phase(self, progress: "_Progress") -> "_Progress":
        index, phases = progress.phase + 1, self.settings.phases
        width_phase = phases[index].width_phase if index < len(phases) else 0
        arrays = _arrays_at_start(self._unpack(progress.best), self.net, self.settings.recipe, width_phase)
        return self._progress_from(arrays, {"phase": index, "step": 0, "best_score": -1.0})

    def _teacher(self, index: int) -> Params | None:
        """The teacher of a phase; none in the first one."""
        if index == 0:
            return None
        source = index - 1 if self.settings.teacher == "progressive" else 0
        return replicate(self._store.teacher(index, source, self._param_shapes), self._steps.devices)

    def _steps_since_start(self, progress: "_Progress") -> int:
        epochs = sum(phase.total_epochs for phase in self.settings.phases[: progress.phase])
        return epochs * self._steps_per_epoch + progress.step

    def _save(self, progress: "_Progress") -> None:
        if not _all_finite(progress.state):
            self._refuse_to_go_on("parameters that are not finite", progress, progress.step)
        arrays = {"params": progress.state.params, "opt_state": progress.state.opt_state, "best": progress.best}
        position = {name: getattr(progress, name) for name in ("phase", "step", "best_score", "totals")}
        # The end of a phase and the start of the next one are as many steps from the start, but two checkpoints.
        number = self._steps_since_start(progress) + progress.phase
        self._store.save(number, arrays, {**position, "seconds": self._seconds_by_kind()})
        self._saved_at = time.monotonic()

    def _stop_if_requested(self) -> None:
        if self._stop:
            self._store.wait()
            raise StoppedError

    # --- one phase ---------------------------------------------------------------------------------------------

    def _train_phase(self, progress: "_Progress") -> None:
        index, phase = progress.phase, self.settings.phases[progress.phase]
        teacher, space = self._teacher(index), space_after(self._space, self.settings.phases, index)
        for epoch in range(progress.step // self._steps_per_epoch, phase.total_epochs):
            with self._timed("train"):
                record = self._train_epoch(progress, teacher, space, epoch)
            with self._timed("evaluate"):
                score = self._validate(index, space, self._unpack(progress.state.params))
            if score > progress.best_score:
                progress.best, progress.best_score = _copy(progress.state.params), score
            record |= {"validation_top1": score}
            self._store.add_record(record)
            self._reporter.epoch_ended(record)
            self._save(progress)
            self._stop_if_requested()

    def _train_epoch(self, progress, teacher, space, epoch) -> dict[str, Any]:
        index, settings, per_epoch = progress.phase, self.settings, self._steps_per_epoch
        phase = settings.phases[index]
        order = epoch_order(self._dataset.splits["train"], settings.seed, index, epoch).astype(np.int32)
        batches = order[: per_epoch * settings.batch_size].reshape(per_epoch, len(self._steps.devices), -1)
        started, compiled, first = time.perf_counter(), self.programs.seconds, progress.step
        before = None
        for batch in batches[progress.step % per_epoch :]:
            rate = learning_rate(phase, progress.step, per_epoch, settings.warmup_learning_rate)
            progress.state, taken = self._step(progress, teacher, space, batch, rate)
            progress.step += 1
            # The step before is looked at, so that the devices always have work queued.
            loss = self._look_at(before or taken, progress)
            before = taken
            self._stop.poll()
            # The last step of an epoch is saved after its validation, with what that decides.
            due = time.monotonic() - self._saved_at > self._checkpoint_every_s or self._stop
            if progress.step % per_epoch and due:
                self._look_at(taken, progress)
                self._save(progress)
                self._stop_if_requested()
            busy = time.perf_counter() - started - (self.programs.seconds - compiled)
            images_per_s = (progress.step - first) * settings.batch_size / max(busy, 1e-9)
            self._reporter.stepped(
                StepProgress(
                    *(index, len(settings.phases), phase.name, epoch, phase.total_epochs, loss, rate, images_per_s),
                    remaining_s=self._remaining_s(progress, images_per_s),
                )
            )
        self._look_at(taken, progress)
        loss, top1 = (total / per_epoch for total in progress.totals)
        progress.totals = (0.0, 0.0)
        return {
            "step": self._steps_since_start(progress),
            "phase": phase.name,
            "epoch": epoch + 1,
            **{"loss": loss, "top1": top1, "learning_rate": rate},
            "images_per_s": round(images_per_s, 1),
        }

    def _step(self, progress, teacher, space, batch, rate) -> tuple[TrainState, "_Taken"]:
        settings, index = self.settings, progress.phase
        key = jax.random.fold_in(jax.random.fold_in(self._key, index), progress.step)
        rng = np.random.default_rng([settings.seed, index, progress.step, _RESOLUTION])
        resolution = int(rng.choice(settings.resolutions))
        num_subnets = settings.phases[index].num_subnets
        data, places = self._feed.batch(batch)
        common = places, jax.random.fold_in(key, _IMAGES), rate, resolution
        if num_subnets == 0:
            choices = None
            result = self._steps.full_step(progress.state, data, *common)
        else:
            choices = self._engine.draw(jax.random.fold_in(key, _SUBNETS), space, num_subnets)
            result = self._engine.step(progress.state, teacher, data, choices, *common)
        if len(self._steps.devices) > 1 and jax.default_backend() == "cpu":
            # Collectives of several virtual CPU devices deadlock if too many steps are in flight.
            jax.block_until_ready(result)
        state, metrics = result
        return state, _Taken(progress.step + 1, choices, metrics)

    def _look_at(self, taken: "_Taken", progress: "_Progress") -> float:
        """Adds a step to what its epoch comes to, once; returns its loss, averaged over its subnets.

        Raises:
            NonFiniteLossError: naming the phase, the step and the first subnet whose loss is not finite.
        """
        losses = np.asarray(taken.metrics["loss"], float)
        if not taken.counted:
            taken.counted = True
            bad = np.flatnonzero(~np.isfinite(losses))
            if len(bad):
                subnet = self._space.maximal() if taken.choices is None else taken.choices.subnets()[bad[0]]
                self._refuse_to_go_on(f"loss={losses[bad[0]]}", progress, taken.number, f", subnet {subnet}")
            progress.totals = (progress.totals[0] + losses.mean(), progress.totals[1] + float(taken.metrics["top1"]))
        return float(losses.mean())

    def _refuse_to_go_on(self, what, progress, step, further=""):
        raise NonFiniteLossError(
            f"{what} in phase {self.settings.phases[progress.phase].name}, step {step}{further}: "
            f"training is stopped; last good checkpoint: {self.latest_checkpoint or 'none yet'}"
        )

    def _remaining_s(self, progress, images_per_s):
        """Training time left: the steps of every phase, weighted by the networks each of them runs."""

        def cost(phase):
            return 1 + phase.num_subnets

        phases = self.settings.phases
        steps = [phase.total_epochs * self._steps_per_epoch for phase in phases]
        steps[progress.phase] -= progress.step
        left = sum(n * cost(phase) for n, phase in zip(steps[progress.phase :], phases[progress.phase :]))
        return left / cost(phases[progress.phase]) * self.settings.batch_size / images_per_s

    def _validate(self, index: int, space: SearchSpace, params: Params) -> float:
        """Mean top-1 in % on the validation split, at the largest resolution.

        Scored are the largest and the smallest subnet that is unlocked, at every height; in phase full the
        ensemble.
        """
        full = self.settings.phases[index].num_subnets == 0
        ends = {space.maximal(), space.minimal()}
        subnets = [dataclasses.replace(s, height=h) for s in sorted(ends, key=str) for h in space.height]
        resolution = max(self.settings.resolutions)
        subnets = [space.maximal()] if full else list(dict.fromkeys(subnets))
        scores = self._evaluator.score(params, subnets, resolution, "validation", ensemble=full)
        return float(np.mean([score.top1 for score in scores]))

    def _test_phase(self, progress: "_Progress") -> dict[str, Any]:
        """Tests every uniform subnet that is unlocked; saves parameters and scores under the phase's name."""
        index = progress.phase
        phase = self.settings.phases[index]
        space = space_after(self._space, self.settings.phases, index)
        with self._timed("evaluate"):
            params = self._unpack(progress.best)
            scores = uniform_scores(
                self._evaluator, params, space, self.settings.resolutions, ensemble=phase.num_subnets == 0
            )
        result = {"name": phase.name, **summary(scores), "subnets": [score.as_json() for score in scores]}
        self._store.save_phase(index, params, result)
        return result

    # --- bookkeeping -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        """Adds the time spent inside to one kind, less what was spent on compiling."""
        started, compiled = time.perf_counter(), self.programs.seconds
        try:
            yield
        finally:
            compiling = self.programs.seconds - compiled
            self._seconds[kind] += time.perf_counter() - started - compiling
            self._seconds["compile"] += compiling

    def _seconds_by_kind(self) -> dict[str, float]:
        return dict(self._seconds)


@dataclasses.dataclass
class _Progress:
    """Where a run stands, and everything it has learned."""

    phase: int
    step: int  # of the phase
    best_score: float
    state: TrainState
    best: Vectors
    totals: Sequence[float] = (0.0, 0.0)  # of loss and top-1 over the steps of this epoch so far


@dataclasses.dataclass
class _Taken:
    """A step that was taken, perhaps still at work on the devices."""

    number: int  # in its phase, from 1
    choices: Choices | None  # None in phase full
    metrics: Metrics
    counted: bool = False


@functools.partial(jax.jit, static_argnames=("net", "recipe", "width_phase"))
def _arrays_at_start(params: Params, net: SuperNet, recipe: Recipe, width_phase: int) -> dict[str, Any]:
    """What a phase starts from. Each part has arrays of its own, because a step donates what it changes."""
    if width_phase:
        stats = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), variable_shapes(net)["batch_stats"])
        params = sort_channels(net, {"params": params, "batch_stats": stats}, width_phase)["params"]
    vectors = Packing(params).pack(params)
    state = recipe.init_state(vectors)
    return {"params": state.params, "opt_state": state.opt_state, "best": _copy(vectors)}


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Mean and maximum of top-1 in %, as Tables IV and V have them."""
    top1 = [score.top1 for score in scores]
    return {"avg": float(np.mean(top1)), "best": float(np.max(top1))}
