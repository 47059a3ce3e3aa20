"""One loop that trains every phase of a run, evaluates it, and can be stopped at any moment."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from ofav2_jax.checks import local_path, require_range
from ofav2_jax.data.dataset import Dataset, fingerprint
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet, variable_shapes
from ofav2_jax.report.records import EpochRecord
from ofav2_jax.run.ahead import compile_ahead
from ofav2_jax.run.assembly import assemble
from ofav2_jax.run.progress import Progress, all_finite, arrays_at_start, copied, remaining_steps, steps_before
from ofav2_jax.run.reporter import Reporter, Silent, StepProgress
from ofav2_jax.run.store import Store
from ofav2_jax.run.training import training_of
from ofav2_jax.runtime import processes
from ofav2_jax.runtime.feed import StreamedImages
from ofav2_jax.runtime.programs import quick_compiler_options
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.settings.phases import sorting
from ofav2_jax.settings.settings import Settings
from ofav2_jax.train.epoch import EpochMeter, NonFiniteLossError, TakenSteps


class StoppedError(Exception):
    """The run was asked to stop, and has saved where it stands."""


class Run:
    """A run in its directory; this process may be one of several.

    Args:
        settings: the run's settings.
        dataset: the data set to train and evaluate on.
        workdir: the run's directory; created. If a run with the same settings is there, it is resumed.
        devices: the devices to use, those of other processes included; None: all that JAX sees.
        reporter: is called as the run goes on; None: nothing is printed.
        checkpoint_every_s: seconds between checkpoints inside an epoch; an epoch ends with one anyway. Of several
            processes the first one decides for all.
        start: where a design is fine-tuned, the supernet's parameters with which that starts; see `finetune`.

    Raises:
        ValueError: see `assembly.assemble`; for a workdir that is not local, a number that is out of range, or other
            start parameters than those of the settings.
        DifferentRunError, DirectoryInUseError: see `RunDirectory.claim`.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        workdir: str | os.PathLike,
        devices: Sequence[jax.Device] | None = None,
        reporter: Reporter | None = None,
        checkpoint_every_s: float = 60.0,
        start: Params | None = None,
    ):
        path = local_path("workdir", workdir)
        require_range("checkpoint_every_s", checkpoint_every_s, 0)
        self._parts = assemble(settings, dataset, devices)
        self.settings = settings = self._parts.settings
        self._training = training_of(self._parts, start)
        identity = fingerprint(dataset)
        processes.require_same("settings", settings.as_json())
        processes.require_same("data", identity)
        self._store = Store(path, settings, identity)
        self._reporter = reporter or Silent()
        self._checkpoint_every_s = checkpoint_every_s
        self._devices = self._parts.devices
        self._epochs = self._parts.epochs
        self._is_streamed = isinstance(self._parts.feed, StreamedImages)
        self._param_shapes = variable_shapes(self.net)["params"]
        self._unpack = jax.jit(self._parts.step.packing.unpack, compiler_options=quick_compiler_options())
        self._saved_at = time.monotonic()
        self._requests = processes.Requests(self._devices)
        # On a CPU training and compiling would take each other's time.
        self._compiles_ahead = jax.default_backend() == "cpu"
        # Seconds by kind, over all starts of this run.
        self._seconds = {"compile": 0.0, "train": 0.0, "evaluate": 0.0}

    @property
    def net(self) -> SuperNet:
        """The supernet."""
        return self._parts.net

    @property
    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint, or None; None in all processes but the first."""
        return self._store.latest_checkpoint

    # --- the phases --------------------------------------------------------------------------------------------

    def execute(self) -> dict[str, Any]:
        """Trains and evaluates every phase that is left.

        Returns:
            The content of `results.json`, which a run that was finished already leaves as it is.

        Raises:
            NonFiniteLossError: naming phase, step and the last checkpoint.
            StoppedError: after `request_stop`.
            checkpoint.CorruptCheckpointError: if there are checkpoints but none can be read.
        """
        phases = self.settings.phases
        try:
            progress = self._resume()
            is_finished = progress.phase == len(phases)
            while progress.phase < len(phases):
                self._reporter.phase_started(progress.phase, phases[progress.phase])
                self._train_phase(progress)
                # The next phase starts from them, too.
                params = self._training.ended(progress.phase, self._unpack(progress.best), self._store)
                self._reporter.phase_ended(progress.phase, self._evaluate_phase(progress, params))
                progress = self._start(progress.phase + 1, params)
                self._save(progress)
            self._store.wait()
            if is_finished and (results := self._store.results()) is not None:
                return results
            seconds = {kind: round(seconds, 1) for kind, seconds in self._seconds.items()}
            further = {
                "class_names": self._parts.dataset.class_names,
                "compiled_programs": len(self._parts.programs),
                "seconds": seconds,
            }
            return self._store.save_results(self.settings.name, self._unpack(progress.best), further)
        finally:
            self._store.release()

    def request_stop(self) -> None:
        """Makes `execute` save and raise `StoppedError` after the step at hand. Can be called from a signal handler."""
        self._requests.stop()

    def _start(self, phase: int, params: Params) -> Progress:
        """The progress before the first step of a phase; if `phase` is beyond the last, that at the end of the run."""
        arrays = arrays_at_start(params, self.net, self.settings.recipe, sorting(self.settings.phases, phase))
        return Progress.at_start(phase, replicate(arrays, self._devices))

    def _resume(self) -> Progress:
        shapes = functools.partial(arrays_at_start, net=self.net, recipe=self.settings.recipe, width_phase=0)
        restored = self._store.restore(jax.eval_shape(shapes, self._param_shapes))
        if restored is None:
            self._store.keep_records(0)
            return self._start(0, self._training.initial_params())
        arrays, position = restored
        self._seconds = position.pop("seconds")
        progress = Progress.from_saved(replicate(arrays, self._devices), position)
        self._store.keep_records(self._steps_since_start(progress))
        return progress

    def _train_phase(self, progress: Progress) -> None:
        index, per_epoch, training = progress.phase, self._epochs.steps_per_epoch, self._training
        space, teacher = training.space(index), training.teacher(index, self._store)
        with self._timed("evaluate"):
            start_top1 = training.start_top1
        if start_top1 is not None and progress.best_score < 0:
            progress.best_score = start_top1
        for epoch in range(progress.step // per_epoch, self.settings.phases[index].total_epochs):
            with self._timed("train"):
                record = self._train_epoch(progress, teacher, space, epoch)
            with self._timed("evaluate"):
                score = training.validate(index, epoch, self._unpack(progress.state.params))
            if score > progress.best_score:
                progress.best, progress.best_score = copied(progress.state.params), score
                progress.best_epoch = epoch + 1
            record = dataclasses.replace(record, validation_top1=score, start_top1=start_top1)
            self._store.add_record(record.as_json())
            self._reporter.epoch_ended(record)
            self._save(progress)
            self._stop_if_requested()

    def _train_epoch(self, progress: Progress, teacher: Params | None, space: SearchSpace, epoch: int) -> EpochRecord:
        phase, per_epoch = self.settings.phases[progress.phase], self._epochs.steps_per_epoch
        started, first, waited_s = self._clock(), progress.step, 0.0
        meter = EpochMeter(functools.partial(self._refuse_loss, progress.phase), progress.totals)
        for taken in self._epochs.steps(progress.phase, first, progress.state, teacher, space):
            progress.state, progress.step = taken.state, taken.number
            waited_s += taken.waited_s
            loss = meter.add(taken)
            if not self._compiles_ahead:
                # After the first step, whose own program comes first.
                self._compiles_ahead = True
                compile_ahead(self._parts)
            self._requests.poll(is_save_due=time.monotonic() - self._saved_at > self._checkpoint_every_s)
            # The last step of an epoch is saved after the epoch's validation, which may change `best`.
            if progress.step % per_epoch and self._requests.must_save:
                meter.flush()
                progress.totals = meter.totals
                self._save(progress)
                self._stop_if_requested()
            images_per_s = (progress.step - first) * self.settings.batch_size / max(self._clock() - started, 1e-9)
            self._report_step(progress, epoch, loss, taken.learning_rate, images_per_s)
        meter.flush()
        mean_loss, mean_top1 = (total / per_epoch for total in meter.totals)
        progress.totals = (0.0, 0.0)
        return EpochRecord(
            step=self._steps_since_start(progress),
            phase=phase.name,
            epoch=epoch + 1,
            loss=mean_loss,
            train_top1=100 * mean_top1,
            learning_rate=taken.learning_rate,
            images_per_s=round(images_per_s, 1),
            validation_top1=-1.0,
            images_waited=round(100 * waited_s / max(self._clock() - started, 1e-9), 1) if self._is_streamed else None,
        )

    def _evaluate_phase(self, progress: Progress, params: Params) -> dict[str, Any]:
        """Evaluates what a phase ended with; saves parameters and scores under the phase's name."""
        with self._timed("evaluate"):
            result = self._training.test(progress.phase, params, progress.best_epoch)
        self._store.save_phase(progress.phase, params, result)
        return result

    # --- saving and stopping -----------------------------------------------------------------------------------

    def _save(self, progress: Progress) -> None:
        if not all_finite(progress.state):
            self._refuse("parameters that are not finite", progress.phase, progress.step)
        # The end of a phase and the start of the next one are the same step, but two checkpoints: hence the phase.
        number = self._steps_since_start(progress) + progress.phase
        self._store.save(number, progress.arrays, {**progress.position, "seconds": dict(self._seconds)})
        self._saved_at = time.monotonic()

    def _stop_if_requested(self) -> None:
        if self._requests.must_stop:
            self._store.wait()
            raise StoppedError

    def _refuse_loss(self, phase: int, taken: TakenSteps, step: int, loss: float, place: int) -> None:
        subnet = self._training.single if taken.choices is None else taken.subnet(step, place)
        self._refuse(f"loss={loss}", phase, taken.number - taken.count + 1 + step, f", subnet {subnet}")

    def _refuse(self, what: str, phase: int, step: int, further: str = "") -> None:
        raise NonFiniteLossError(
            f"{what} in phase {self.settings.phases[phase].name}, step {step}{further}: "
            f"training is stopped; last good checkpoint: {self.latest_checkpoint or 'none yet'}"
        )

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def _steps_since_start(self, progress: Progress) -> int:
        return steps_before(self.settings.phases, progress.phase, self._epochs.steps_per_epoch) + progress.step

    def _report_step(self, progress: Progress, epoch: int, loss: float, rate: float, images_per_s: float) -> None:
        phases, index = self.settings.phases, progress.phase
        left = remaining_steps(phases, index, progress.step, self._epochs.steps_per_epoch)
        self._reporter.stepped(
            StepProgress(
                *(index, len(phases), phases[index].name, epoch, phases[index].total_epochs, loss, rate, images_per_s),
                remaining_s=left * self.settings.batch_size / images_per_s,
            )
        )

    def _clock(self) -> float:
        """A clock in seconds that stands still while programs are compiled."""
        return time.perf_counter() - self._parts.programs.seconds

    @contextlib.contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        """Adds the time spent inside to one kind, except the time spent on compiling, which is a kind of its own."""
        started, compiled = self._clock(), self._parts.programs.seconds
        try:
            yield
        finally:
            self._seconds[kind] += self._clock() - started
            self._seconds["compile"] += self._parts.programs.seconds - compiled
