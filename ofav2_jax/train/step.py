"""One optimiser step, mapped over the devices.

    images, labels   the batch, cropped and flipped
    teacher_logits   the teacher's ensemble on the same images
    gradient         summed over the sampled subnets: d losses(subnet(images), labels, teacher_logits) / d params
    params           SGD(params, gradient)

Every random draw is a function of the step's key and of an image's place in the batch, so that the number of devices
changes nothing.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.data import augment
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.design import Design
from ofav2_jax.model.packing import Packing, Params, Vectors
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet, variable_shapes
from ofav2_jax.ops.ensemble import weighted_sum
from ofav2_jax.runtime.feed import Images
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import AXIS
from ofav2_jax.runtime.trace_cache import name_in_files
from ofav2_jax.settings.exit_weights import ensemble_weights
from ofav2_jax.settings.recipe import Recipe
from ofav2_jax.train.objective import Objective
from ofav2_jax.train.optimizer import TrainState, init_state, update

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class StepInputs:
    """The inputs of a step beside the state that it changes.

    Attributes:
        images: the images from which the batch is read, see `feed.ImageFeed.batch`.
        indices: int32 [devices, images per device], positions of the batch's images in them.
        key: typed PRNG key of the step.
        learning_rate: float32 scalar.
        teacher: parameters of the teacher; None in phase full.
        choices: the choices of S sampled subnets; None in phases that train a single network.
        num_subnets: int32 scalar, how many of the choices are trained, where subnets run one after another: the other
            choices only give steps of fewer subnets the shape of the largest step. None: all of them are.
    """

    images: Images
    indices: Any
    key: Any
    learning_rate: Any
    teacher: Params | None = None
    choices: Choices | None = None
    num_subnets: Any = None

    def at(self, step: jax.Array) -> "StepInputs":
        """The inputs of one step, on one device, if these are those of several; see `TrainStep.several`."""

        def of_step(values):
            return lax.dynamic_index_in_dim(values, step, keepdims=False)

        indices = self.indices.reshape(len(self.key), -1)
        several = {"indices": indices, "key": self.key, "learning_rate": self.learning_rate}
        if self.choices is not None:
            several["choices"] = self.choices
        return self.replace(**jax.tree.map(of_step, several))  # type: ignore[attr-defined]

    def mapped_axes(self) -> "StepInputs":
        """For each field the axis that is sharded over the devices, None where it is replicated; for `pmap`."""
        return StepInputs(images=self.images.mapped_axis, indices=0, key=None, learning_rate=None)  # type: ignore


@flax.struct.dataclass
class Batch:
    """One device's images [B, R, R, 3], labels [B] and teacher's logits [B, classes], or None without a teacher."""

    images: jax.Array
    labels: jax.Array
    teacher_logits: jax.Array | None


name_in_files(Batch)


class TrainStep:
    """The step of one network and recipe, and the parts of it that the engines share.

    Args:
        net: the supernet; its `axis_name` is `sharding.AXIS` if there are several devices.
        recipe: losses, optimiser, augmentation.
        normalisation: normalisation of the images.
        programs: compiles programs and maps them over the run's devices.
        design: what steps without sampled subnets train: a design that is fine-tuned; None: the maximal network, as in
            phase full.

    Attributes:
        packing: packs and unpacks the network's parameters.
    """

    def __init__(
        self,
        net: SuperNet,
        recipe: Recipe,
        normalisation: augment.Normalisation,
        programs: Programs,
        design: Design | None = None,
    ):
        num_exits = len(net.exit_stages)
        self.net = net
        self.recipe = recipe
        self.programs = programs
        self.packing = Packing(variable_shapes(net)["params"])
        self.objective_single = Objective.full(recipe, num_exits)
        if design is not None:
            self.objective_single = Objective.of_exits(recipe, design.exits or ())
        self._design = design
        self.objective_student = Objective.student(recipe)
        self._output_weights = ensemble_weights(recipe.exit_weights, num_exits)[1]
        self._normalisation = normalisation
        self._num_devices = len(programs.devices)

    def init_state(self, params: Params) -> TrainState:
        """The state before the first step."""
        # In one program: operation by operation JAX would compile one for each parameter's shape.
        return jax.jit(lambda params: init_state(self.recipe, self.packing.pack(params)))(params)

    def __call__(self, state: TrainState, inputs: StepInputs, resolution: int) -> tuple[TrainState, Metrics]:
        """Trains on one batch, all subnets of the step in one program that serves every subnet.

        Args:
            state: parameters and optimiser state; donated.
            inputs: everything else; without choices it is a step of phase full, or of the fine-tuning of a design.
            resolution: height and width of the images after augmentation, pixels.

        Returns:
            The new state; and `loss` [S], each subnet's mean over the images, 0 for choices that are not trained, with
            `top1`, a fraction, the mean over subnets and images.
        """
        axes = inputs.mapped_axes()
        return self.programs.run(
            self._name(inputs),
            resolution,
            lambda r: self.programs.pmap(functools.partial(self._step, resolution=r), (None, axes), (None, None), (0,)),
            *(state, inputs),
            donate=(0,),
        )

    def several(self, state: TrainState, inputs: StepInputs, count: Any, resolution: int) -> tuple[TrainState, Metrics]:
        """Takes up to K steps in one program, so that the host need not dispatch each of them.

        Args:
            state: see `__call__`.
            inputs: those of K steps: indices [devices, K * images per device], K keys, K learning rates, the choices
                of K steps. The other fields are shared by the steps.
            count: int32 scalar, at most K; so many steps are taken.
            resolution: see `__call__`.

        Returns:
            The state after the last step; and the metrics of `__call__` with a leading axis K.
        """
        axes = inputs.mapped_axes()
        return self.programs.run(
            f"up to {len(inputs.key)} times {self._name(inputs)}",
            resolution,
            lambda r: self.programs.pmap(
                functools.partial(self._several, resolution=r), (None, axes, None), (None, None), (0,)
            ),
            *(state, inputs, count),
            donate=(0,),
        )

    def _several(self, state, inputs, count, *, resolution):
        step = functools.partial(self._step, resolution=resolution)

        def take(place, carry):
            state, metrics = carry
            state, of_step = step(state, inputs.at(place))
            return state, jax.tree.map(lambda all_of_them, one: all_of_them.at[place].set(one), metrics, of_step)

        _, shapes = jax.eval_shape(step, state, inputs.at(jnp.int32(0)))
        metrics = jax.tree.map(lambda s: jnp.zeros((len(inputs.key), *s.shape), s.dtype), shapes)
        return lax.fori_loop(0, count, take, (state, metrics))

    def _name(self, inputs: StepInputs) -> str:
        if inputs.choices is not None:
            return f"step of {inputs.choices.height.shape[-1]}"
        return "full" if self._design is None else f"step of {self._design}"

    def _step(self, state, inputs, *, resolution):
        num_subnets = 1 if inputs.choices is None else inputs.choices.num_subnets
        image_keys, dropout_keys = self.keys(inputs.key, len(inputs.indices), jnp.arange(num_subnets))
        batch = self.load(inputs, image_keys, resolution)
        if inputs.choices is None:
            subnet = Subnet.uniform() if self._design is None else self._design.subnet
            gradient, metrics = self.gradient(self.objective_single, state.params, batch, subnet, dropout_keys)
        elif inputs.num_subnets is None:
            gradient, metrics = self.gradient(self.objective_student, state.params, batch, inputs.choices, dropout_keys)
        else:
            gradient, metrics = self._gradient_of_each(state.params, batch, inputs, dropout_keys)
        gradient, metrics = self.sum_over_devices(gradient), self.sum_over_devices(metrics)
        return update(self.recipe, state, gradient, inputs.learning_rate), metrics

    # --- the parts, each for one device's share of the batch -------------------------------------------------------

    def keys(self, key: jax.Array, num_images: int, dropouts: jax.Array) -> tuple[jax.Array, jax.Array]:
        """PRNG keys of this device's images, made from the places of images in the batch and of subnets in the step.

        Args:
            key: the step's key.
            num_images: B, the number of images on this device.
            dropouts: places of S subnets in the step, int [S].

        Returns:
            Keys for augmentation [B] and keys for dropout [S, B].
        """
        fold = jax.random.fold_in
        places = lax.axis_index(AXIS) * num_images + jnp.arange(num_images)
        of_image = jax.vmap(fold, (None, 0))(key, places)
        uses = jnp.concatenate([jnp.zeros(1, dropouts.dtype), 1 + dropouts])
        keys = jax.vmap(jax.vmap(fold, (0, None)), (None, 0))(of_image, uses)
        return keys[0], keys[1:]

    def load(self, inputs: StepInputs, keys: jax.Array, resolution: int) -> Batch:
        """Reads this device's images, augments them with `keys` [B], and computes the teacher's logits if needed."""
        pixels, labels = inputs.images.batch(inputs.indices)
        images = augment.train_images(pixels, keys, resolution, self.recipe.augmentation, self._normalisation)
        if inputs.teacher is None or not self.objective_student.needs_teacher:
            return Batch(images, labels, None)
        return Batch(images, labels, self.teacher_logits(inputs.teacher, images))

    def teacher_logits(self, teacher: Params, images: jax.Array) -> jax.Array:
        """The ensemble of the maximal network's exits, with the statistics of the batch at hand, without dropout."""
        logits: Any = self.net.apply({"params": teacher}, images, Subnet.uniform(), train=True, all_exits=True)
        return lax.stop_gradient(weighted_sum(self._output_weights, logits))

    def gradient(
        self, objective: Objective, params: Vectors, batch: Batch, choices: Subnet | Choices, dropout_keys: jax.Array
    ) -> tuple[Vectors, Metrics]:
        """This device's share of the gradient, summed over subnets, and of the metrics.

        Args:
            objective: the loss to minimise.
            params: the supernet's parameters, packed.
            batch: this device's share of the batch.
            choices: one static subnet, or S traced ones.
            dropout_keys: typed PRNG keys [S, B].
        """

        def loss_of(params):
            logits = self.net.apply(
                {"params": self.packing.unpack_to_rows(params)},
                batch.images,
                choices,
                train=True,
                all_exits=objective.all_exits,
                dropout_rate=objective.dropout_rate,
                dropout_keys=dropout_keys,
                unpack_level=self.packing.unpack_level,
            )
            if isinstance(choices, Subnet) and not objective.all_exits:
                logits = logits[None]
            # Means over a share of the batch add up to the mean over the batch.
            losses = objective.losses(logits, batch.labels, batch.teacher_logits) / self._num_devices
            return jnp.sum(losses), (losses, objective.predictions(logits))

        gradient, (losses, predictions) = jax.grad(loss_of, has_aux=True)(params)
        top1 = jnp.mean(jnp.argmax(predictions, -1) == batch.labels) / self._num_devices
        return gradient, {"loss": losses, "top1": top1}

    def _gradient_of_each(self, params, batch, inputs, dropout_keys):
        """Does what `gradient` does, for one subnet after another, so that each skips what it does not contain."""

        def add(place, total):
            gradient, metrics = total
            keys = lax.dynamic_slice_in_dim(dropout_keys, place, 1)
            choices = inputs.choices.only(place)
            further, of_subnet = self.gradient(self.objective_student, params, batch, choices, keys)
            losses = metrics["loss"].at[place].set(of_subnet["loss"][0])
            top1 = metrics["top1"] + of_subnet["top1"] / inputs.num_subnets
            return jax.tree.map(jnp.add, gradient, further), {"loss": losses, "top1": top1}

        zeros = jnp.zeros(len(dropout_keys), jnp.promote_types(jnp.float32, self.net.dtype))
        start = jax.tree.map(jnp.zeros_like, params), {"loss": zeros, "top1": jnp.zeros((), zeros.dtype)}
        with jax.named_scope("each_subnet"):
            return lax.fori_loop(0, inputs.num_subnets, add, start)

    def sum_over_devices(self, tree):
        # A sum over a single device would still be an operation, and would keep others from being fused.
        return lax.psum(tree, AXIS) if self._num_devices > 1 else tree
