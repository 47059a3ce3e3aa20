"""What fine-tuning minimises, and the optimiser that does so."""

import jax.numpy as jnp
import numpy as np
import optax

from ofav2_jax.model.packing import DECAYED, OTHERS
from ofav2_jax.settings.recipe import Recipe
from ofav2_jax.train.objective import Objective
from ofav2_jax.train.optimizer import init_state, update


def test_an_optimiser_is_that_of_optax_where_there_are_gradients():
    recipe = Recipe(optimizer="adamw", weight_decay=0.1)
    params = {DECAYED: jnp.array([1.0, -2.0, 3.0]), OTHERS: jnp.array([0.5, 0.25])}
    state, theirs = init_state(recipe, params), params
    reference = optax.adamw(0.01, weight_decay=0.1, mask={DECAYED: True, OTHERS: False})
    of_reference = reference.init(params)
    for step in range(3):
        gradient = {DECAYED: jnp.array([0.3, -0.1 * step, 0.0]), OTHERS: jnp.array([1.0, -1e-3])}
        state = update(recipe, state, gradient, jnp.float32(0.01))
        updates, of_reference = reference.update(gradient, of_reference, theirs)
        theirs = optax.apply_updates(theirs, updates)
        # The second parameter has its first gradient in the second step, and only then begins to decay.
        assert (state.params[DECAYED][1] == -2) == (step == 0) and state.params[DECAYED][2] == 3
    np.testing.assert_allclose(state.params[DECAYED][0], theirs[DECAYED][0], rtol=1e-6)
    np.testing.assert_allclose(state.params[OTHERS], theirs[OTHERS], rtol=1e-6)


def test_the_objective_of_one_exit_is_a_students_and_of_several_their_mean():
    recipe = Recipe(optimizer="adamw", kd_ratio=0.7, dropout_rate=0.0)
    rng = np.random.default_rng(0)
    logits, labels, teacher = rng.normal(size=(3, 5, 4)), np.arange(5) % 4, rng.normal(size=(5, 4))
    logits, teacher = logits.astype(np.float32), teacher.astype(np.float32)
    student = Objective.student(recipe)
    single, several = Objective.of_exits(recipe, (4,)), Objective.of_exits(recipe, (1, 2, 4))
    assert (single.all_exits, several.all_exits, single.needs_teacher) == ((4,), (1, 2, 4), True)
    each = student.losses(logits, labels, teacher)
    assert each.shape == (3,)
    np.testing.assert_allclose(single.losses(logits[:1], labels, teacher), each[:1], rtol=1e-6)
    np.testing.assert_allclose(several.losses(logits, labels, teacher), [each.mean()], rtol=1e-6)
    np.testing.assert_allclose(several.predictions(logits), logits.mean(0)[None], atol=1e-6)
    assert not Objective.of_exits(Recipe(kd_ratio=0.0), (4,)).needs_teacher
