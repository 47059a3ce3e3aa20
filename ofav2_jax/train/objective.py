"""The loss that a step minimises: an `Objective` turns logits into losses.

Another kind of distillation is a function in `losses.DISTILLATIONS`. Another way to train, with other exits or other
predictions, is another constructor here.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ofav2_jax.checks import require_among
from ofav2_jax.ops.ensemble import weighted_sum
from ofav2_jax.settings.exit_weights import ensemble_weights
from ofav2_jax.settings.recipe import Recipe
from ofav2_jax.train.losses import DISTILLATIONS, smoothed_cross_entropy


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss that is minimised for each subnet of a step.

    Attributes:
        needs_teacher: whether the losses read the teacher's logits, which are not computed otherwise.
        all_exits: whether every exit of the network runs, instead of each subnet's own; of a single static subnet also
            the stages whose exits run.
        dropout_rate: in [0, 1).
        losses: a function from logits, labels int [B] and the teacher's logits [B, classes] (None without a teacher)
            to float [S], means over the batch. The logits are [exits, B, classes] if `all_exits`, else [S, B,
            classes].
        predictions: a function from the same logits to those that training accuracy is measured on, [S, B, classes].
    """

    needs_teacher: bool
    all_exits: bool | tuple[int, ...]
    dropout_rate: float
    losses: Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
    predictions: Callable[[jax.Array], jax.Array]

    @classmethod
    def full(cls, recipe: Recipe, num_exits: int) -> "Objective":
        """Phase full, without teacher: the weighted sum of the exits' cross-entropies; the ensemble predicts (AEP)."""
        loss_weights, output_weights = ensemble_weights(recipe.exit_weights, num_exits)

        def losses(logits, labels, teacher_logits):
            of_exits = jnp.mean(smoothed_cross_entropy(logits, labels, recipe.label_smoothing), axis=-1)
            return jnp.dot(jnp.asarray(loss_weights, of_exits.dtype), of_exits)[None]

        return cls(False, True, recipe.dropout_full, losses, lambda logits: weighted_sum(output_weights, logits)[None])

    @classmethod
    def student(cls, recipe: Recipe) -> "Objective":
        """All other phases: each subnet's own exit learns from the labels and from the teacher's ensemble (ENS-KD)."""
        require_among("recipe.distillation", recipe.distillation, tuple(DISTILLATIONS))
        distillation = DISTILLATIONS[recipe.distillation]

        def losses(logits, labels, teacher_logits):
            loss = smoothed_cross_entropy(logits, labels, recipe.label_smoothing)
            if recipe.kd_ratio:
                loss += recipe.kd_ratio * distillation(logits, teacher_logits)
            return jnp.mean(loss, axis=-1)

        return cls(recipe.kd_ratio > 0, False, recipe.dropout_rate, losses, lambda logits: logits)

    @classmethod
    def of_exits(cls, recipe: Recipe, exits: tuple[int, ...]) -> "Objective":
        """Fine-tuning of a design: the mean of what its exits lose as students; the mean of their logits predicts.

        Args:
            recipe: the run's recipe.
            exits: the stages after which the design has exits, in ascending order.
        """
        student = cls.student(recipe)

        def losses(logits, labels, teacher_logits):
            return jnp.mean(student.losses(logits, labels, teacher_logits), keepdims=True)

        return dataclasses.replace(
            student, all_exits=exits, losses=losses, predictions=lambda logits: jnp.mean(logits, 0, keepdims=True)
        )
