"""One optimiser step: augmentation, teacher, sampled subnets, gradients, update; mapped over devices.

Two engines run the same step. `MaskedEngine` gives the subnets to one program as arrays; `StaticEngine` has a
program for each subnet and adds their gradients up. Every random draw is a function of the step's key and of an
image's place in the batch, so that the number of devices changes nothing.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import export, lax

from ofav2_jax.data import augment
from ofav2_jax.model.channels import variable_shapes
from ofav2_jax.model.packing import DECAYED, Packing, Params, Vectors
from ofav2_jax.model.space import Candidates, Choices, SearchSpace, Subnet, draw
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.runtime.feed import AXIS, Images, replicate
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.train.losses import ensemble_weights, smoothed_cross_entropy, soft_target_cross_entropy

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step minimises and how it updates. Hashable.

    Attributes:
        label_smoothing: in [0, 1).
        kd_ratio: weight of the distillation loss, >= 0.
        exit_weights: see `losses.ensemble_weights`.
        dropout_full, dropout_rate: dropout in phase full and in all others, in [0, 1).
        momentum: of SGD (Nesterov), in [0, 1).
        weight_decay: of everything but BN parameters and biases, >= 0.
        augmentation: of training images.
    """

    label_smoothing: float = 0.1
    kd_ratio: float = 1.0
    exit_weights: str | tuple[float, ...] = "desc"
    dropout_full: float = 0.2
    dropout_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-5
    augmentation: augment.Augmentation = augment.Augmentation()

    def optimizer(self) -> optax.GradientTransformation:
        """SGD with Nesterov momentum; the learning rate is applied by `update`, so that it can be traced."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, lambda vectors: {name: name == DECAYED for name in vectors}),
            optax.trace(self.momentum, nesterov=True),
        )

    def init_state(self, params: Vectors) -> "TrainState":
        """The state before the first step, from which on `params` belong to it."""
        return TrainState(params, self.optimizer().init(params))


@flax.struct.dataclass
class TrainState:
    """What a step changes: parameters, see `packing`, and the optimiser's vectors beside them."""

    params: Vectors
    opt_state: Any


# The containers of what a program returns need names in the files of `traces`.
export.register_pytree_node_serialization(
    TrainState,
    serialized_name="ofav2_jax.TrainState",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)
for _type in (optax.EmptyState, optax.MaskedState, optax.TraceState):
    # Each can have one name only, and another package may have given it one.
    with contextlib.suppress(ValueError):
        export.register_namedtuple_serialization(_type, serialized_name=f"optax.{_type.__name__}")


def update(recipe: Recipe, state: TrainState, grads: Vectors, learning_rate: jax.Array) -> TrainState:
    """One step of SGD."""
    updates, opt_state = recipe.optimizer().update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: -learning_rate * u, updates)
    return TrainState(optax.apply_updates(state.params, updates), opt_state)


class Engine(Protocol):
    """How the sampled subnets of a step are run."""

    def draw(self, key: jax.Array, space: SearchSpace, num_subnets: int) -> Choices:
        """Draws the subnets of one step."""

    def step(
        self,
        state: TrainState,
        teacher: Params,
        data: Images,
        choices: Choices,
        indices: jax.Array,
        key: jax.Array,
        learning_rate: float,
        resolution: int,
    ) -> tuple[TrainState, Metrics]:
        """Trains on one batch.

        Args:
            state: parameters and optimiser state; donated.
            teacher: parameters of the teacher.
            data: what the batch is read from, see `placement.ImageFeed.batch`.
            choices: S subnets.
            indices: int32 [devices, images per device], which images in `data` form the batch.
            key: of the step.
            learning_rate: of the step.
            resolution: of the step.

        Returns:
            The new state; `loss` of each subnet [S], averaged over the images, and `top1` (a fraction), averaged over
            both.
        """


class Steps:
    """The parts of a step that all engines share, for one network and recipe.

    Attributes:
        net: the supernet.
        recipe: what is minimised.
        devices: the devices of the run.
        packing: of the network's parameters.
        programs: where programs are compiled and counted.
    """

    def __init__(
        self,
        net: SuperNet,
        recipe: Recipe,
        normalisation: augment.Normalisation,
        devices: Sequence[jax.Device],
        programs: Programs,
    ):
        # A sum over a single device would still be an operation, and keep others from being fused.
        self.net = net.clone(axis_name=AXIS if len(devices) > 1 else None)
        self.packing = Packing(variable_shapes(net)["params"])
        self.recipe = recipe
        self.devices = devices
        self.programs = programs
        self._normalisation = normalisation
        self.loss_weights, self.output_weights = ensemble_weights(recipe.exit_weights, len(net.exit_stages))

    def init_state(self, params: Params) -> TrainState:
        """The state before the first step."""
        # As one program: operation by operation it compiles one for each shape of a parameter.
        return jax.jit(lambda params: self.recipe.init_state(self.packing.pack(params)))(params)

    def pmap(self, function: Callable, in_axes: tuple, out_axes: Any) -> Any:
        """`jax.pmap` over the run's devices; None in the axes means replicated."""
        return jax.pmap(function, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, devices=self.devices)

    def sum_over_devices(self, tree: Any) -> Any:
        """The sum of every array over the devices."""
        return lax.psum(tree, AXIS) if len(self.devices) > 1 else tree

    def keys(self, key: jax.Array, num_images: int, dropouts: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys of this device's images, from the places of the images in the batch and of the subnets in the step.

        Args:
            key: of the step.
            num_images: B, on this device.
            dropouts: places of S subnets, int [S].

        Returns:
            For augmentation [B] and for dropout [S, B].
        """
        fold = jax.random.fold_in
        places = lax.axis_index(AXIS) * num_images + jnp.arange(num_images)
        of_image = jax.vmap(fold, (None, 0))(key, places)
        uses = jnp.concatenate([jnp.zeros(1, dropouts.dtype), 1 + dropouts])
        keys = jax.vmap(jax.vmap(fold, (0, None)), (None, 0))(of_image, uses)
        return keys[0], keys[1:]

    def batch(self, data: Images, indices: jax.Array, keys: jax.Array, resolution: int) -> tuple[jax.Array, jax.Array]:
        """This device's augmented images and their labels; `keys` [B]."""
        images = augment.train_images(
            data.images[indices], keys, resolution, self.recipe.augmentation, self._normalisation
        )
        return images, data.labels[indices]

    def ensemble(self, logits: Any) -> jax.Array:
        """The weighted sum over the leading axis, the exits; also what the teacher's soft targets come from."""
        return jnp.tensordot(jnp.asarray(self.output_weights, logits.dtype), logits, 1)

    def teacher_logits(self, teacher: Params, images: jax.Array) -> jax.Array:
        """The maximal network's ensemble, with the statistics of the batch at hand, without dropout."""
        logits = self.net.apply({"params": teacher}, images, Subnet.uniform(), train=True, all_exits=True)
        return lax.stop_gradient(self.ensemble(logits))

    def student_losses(self, logits: jax.Array, labels: jax.Array, teacher_logits: jax.Array) -> jax.Array:
        """[S], the mean over the batch: this device's share."""
        loss = smoothed_cross_entropy(logits, labels, self.recipe.label_smoothing)
        loss += self.recipe.kd_ratio * soft_target_cross_entropy(logits, teacher_logits)
        return jnp.mean(loss, axis=-1) / len(self.devices)

    def metrics(self, losses: jax.Array, logits: jax.Array, labels: jax.Array) -> Metrics:
        """Of S subnets, summed over the devices."""
        top1 = jnp.mean(jnp.argmax(logits, -1) == labels) / len(self.devices)
        return self.sum_over_devices({"loss": losses, "top1": top1})

    def full_step(self, state, data, indices, key, learning_rate, resolution):
        """One step of phase full: the maximal network; the weighted sum of its exits' losses (AEP)."""

        def function(state, data, indices, key, learning_rate, *, resolution):
            for_images, for_dropout = self.keys(key, len(indices), jnp.arange(1))
            images, labels = self.batch(data, indices, for_images, resolution)

            def loss_of(params):
                logits = self.net.apply(
                    {"params": self.packing.unpack_to_rows(params)},
                    images,
                    Subnet.uniform(),
                    train=True,
                    all_exits=True,
                    dropout_rate=self.recipe.dropout_full,
                    dropout_keys=for_dropout,
                )
                losses = jnp.mean(smoothed_cross_entropy(logits, labels, self.recipe.label_smoothing), axis=-1)
                return jnp.dot(jnp.asarray(self.loss_weights, losses.dtype), losses) / len(self.devices), logits

            (loss, logits), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
            metrics = self.metrics(loss[None], self.ensemble(logits), labels)
            return update(self.recipe, state, self.sum_over_devices(grads), learning_rate), metrics

        return self.programs.run(
            "full",
            resolution,
            lambda r: self.pmap(
                functools.partial(function, resolution=r),
                (None, data.mapped_axis, 0, None, None),
                (None, None),
            ),
            *(state, data, indices, key, jnp.float32(learning_rate)),
            donate=(0,),
        )


class MaskedEngine:
    """All subnets of a step in one program, which serves every subnet: the whole space is sampled."""

    def __init__(self, steps: Steps):
        self.steps = steps

    def draw(self, key: jax.Array, space: SearchSpace, num_subnets: int) -> Choices:
        """Draws every choice of every level and stage independently and uniformly."""
        return _draw(key, space.candidates(), num_subnets)

    def step(self, state, teacher, data, choices, indices, key, learning_rate, resolution):
        """See `Engine`."""
        steps, recipe = self.steps, self.steps.recipe

        def function(state, teacher, data, choices, indices, key, learning_rate, *, resolution):
            for_images, for_dropout = steps.keys(key, len(indices), jnp.arange(choices.num_subnets))
            images, labels = steps.batch(data, indices, for_images, resolution)
            targets = steps.teacher_logits(teacher, images)

            def loss_of(params):
                logits = steps.net.apply(
                    {"params": steps.packing.unpack_to_rows(params)},
                    images,
                    choices,
                    train=True,
                    dropout_rate=recipe.dropout_rate,
                    dropout_keys=for_dropout,
                )
                losses = steps.student_losses(logits, labels, targets)
                return jnp.sum(losses), (losses, logits)

            grads, (losses, logits) = jax.grad(loss_of, has_aux=True)(state.params)
            metrics = steps.metrics(losses, logits, labels)
            return update(recipe, state, steps.sum_over_devices(grads), learning_rate), metrics

        return steps.programs.run(
            f"step of {choices.num_subnets}",
            resolution,
            lambda r: steps.pmap(
                functools.partial(function, resolution=r),
                (None, None, data.mapped_axis, None, 0, None, None),
                (None, None),
            ),
            *(state, teacher, data, choices, indices, key, jnp.float32(learning_rate)),
            donate=(0,),
        )


class StaticEngine:
    """A program for each subnet, which contains it and nothing else; only uniform subnets are drawn.

    The number of programs is bounded by (resolutions) x (uniform subnets + 1) + 1.
    """

    def __init__(self, steps: Steps):
        self.steps = steps

    def draw(self, key: jax.Array, space: SearchSpace, num_subnets: int) -> Choices:
        """Draws subnets that make one choice of each kind for the whole network."""
        return _draw_uniform(key, space.candidates(), num_subnets)

    def step(self, state, teacher, data, choices, indices, key, learning_rate, resolution):
        """See `Engine`."""
        steps, recipe, programs = self.steps, self.steps.recipe, self.steps.programs

        def prepare(teacher, data, indices, key, *, resolution):
            for_images, _ = steps.keys(key, len(indices), jnp.arange(0))
            images, labels = steps.batch(data, indices, for_images, resolution)
            return images, labels, steps.teacher_logits(teacher, images)

        def add_gradient(total, params, batch, key, place, *, subnet):
            images, labels, targets = batch
            _, for_dropout = steps.keys(key, len(labels), place[None])

            def loss_of(params):
                logits = steps.net.apply(
                    {"params": steps.packing.unpack_to_rows(params)},
                    images,
                    subnet,
                    train=True,
                    dropout_rate=recipe.dropout_rate,
                    dropout_keys=for_dropout,
                )[None]
                losses = steps.student_losses(logits, labels, targets)
                return jnp.sum(losses), (losses, logits)

            grads, (losses, logits) = jax.grad(loss_of, has_aux=True)(params)
            return jax.tree.map(jnp.add, total, steps.sum_over_devices(grads)), steps.metrics(losses, logits, labels)

        batch = programs.run(
            "prepare",
            resolution,
            lambda r: steps.pmap(functools.partial(prepare, resolution=r), (None, data.mapped_axis, 0, None), 0),
            *(teacher, data, indices, key),
        )
        grads = replicate(jax.tree.map(jnp.zeros_like, state.params), steps.devices)
        metrics = []
        for place, subnet in enumerate(choices.subnets()):
            gradient = steps.pmap(
                functools.partial(add_gradient, subnet=subnet), (None, None, 0, None, None), (None, None)
            )
            # The images come in at the resolution: each resolution is a program by itself.
            grads, of_subnet = programs.run_single(
                f"gradient of {subnet} at {resolution}",
                gradient,
                *(grads, state.params, batch, key, jnp.int32(place)),
                donate=(0,),
            )
            metrics.append(of_subnet)
        state = programs.run_single(
            "update",
            functools.partial(update, recipe),
            *(state, grads, jnp.float32(learning_rate)),
            donate=(0,),
        )
        losses = jnp.concatenate([of_subnet["loss"] for of_subnet in metrics])
        return state, {"loss": losses, "top1": sum(of_subnet["top1"] for of_subnet in metrics) / len(metrics)}


ENGINES: dict[str, Callable[[Steps], Engine]] = {"masked": MaskedEngine, "static": StaticEngine}

_draw = jax.jit(draw, static_argnums=2)


@functools.partial(jax.jit, static_argnums=2)
def _draw_uniform(key: jax.Array, candidates: Candidates, num_subnets: int) -> Choices:
    one_each = draw(key, candidates, num_subnets)

    def spread(values):
        return jnp.broadcast_to(values[:, :1], values.shape) if values.ndim == 2 else values

    return jax.tree.map(spread, one_each)
