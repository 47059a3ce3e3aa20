"""The algorithm on one screen: a supernet, a teacher, sampled subnets that learn from it, one update.

    python examples/minimal.py [--steps=N]

Plain JAX, Flax and Optax on 1,797 handwritten digits. `ofav2_jax.Run` adds everything else: ten phases instead of two,
crops and flips, checkpoints, several devices, and the evaluation of every uniform subnet.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ofav2_jax as ofa
from ofav2_jax.train.losses import smoothed_cross_entropy, soft_target_cross_entropy

NUM_SUBNETS, BATCH, SMOOTHING = 2, 64, 0.1


def main(num_steps: int) -> dict[str, float]:
    """Trains for `num_steps` steps in each of two phases; returns top-1 in % of three networks on the test images."""
    digits = ofa.load_dataset("digits")
    images = digits.normalisation(jnp.repeat(jnp.repeat(digits.images.astype(np.float32), 2, axis=1), 2, axis=2))
    labels = jnp.asarray(digits.labels)

    net = ofa.SuperNet("ee_d", width_multiplier=0.3, num_classes=10)
    space = ofa.SearchSpace(net)
    maximal, weights = space.maximal(), jnp.asarray(ofa.exit_weights("desc", 5))
    variables = net.init(jax.random.key(0), images[:1], maximal)
    params = variables["params"]
    optimizer = optax.sgd(0.03, momentum=0.9, nesterov=True)

    def ensemble(params, images):
        logits = net.apply({"params": params}, images, maximal, train=True, all_exits=True)  # [5, B, 10]
        return logits, jnp.tensordot(weights, logits, 1)

    @jax.jit
    def full_step(params, state, images, labels):
        """Phase full: the weighted sum of the five exits' losses."""

        def loss(params):
            of_exits = smoothed_cross_entropy(ensemble(params, images)[0], labels, SMOOTHING).mean(-1)
            return weights @ of_exits

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def student_step(params, state, teacher, images, labels, choices):
        """All other phases: S subnets, traced, so that one program serves every subnet; their gradients add up."""
        targets = ensemble(teacher, images)[1]

        def loss(params):
            logits = net.apply({"params": params}, images, choices, train=True)  # [S, B, 10]
            hard = smoothed_cross_entropy(logits, labels, SMOOTHING)
            return jnp.sum(jnp.mean(hard + soft_target_cross_entropy(logits, targets), axis=-1))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    def batches():
        rng = np.random.default_rng(0)
        for step in range(num_steps):
            chosen = rng.choice(digits.splits["train"], BATCH, replace=False)
            yield step, images[chosen], labels[chosen]

    state = optimizer.init(params)
    for _, x, y in batches():
        params, state = full_step(params, state, x, y)
    teacher, state = params, optimizer.init(params)
    for step, x, y in batches():
        choices = ofa.Choices.stack(space.sample(jax.random.fold_in(jax.random.key(1), step), NUM_SUBNETS))
        params, state = student_step(params, state, teacher, x, y, choices)

    test, calibration = digits.splits["test"], images[digits.splits["train"][:200]]
    subnets = {"maximal": maximal, "middle": ofa.Subnet.uniform(5, 4, 3, height=3), "minimal": space.minimal()}
    variables = ofa.recalibrate_masked(net, {"params": params}, [calibration], list(subnets.values()))
    logits = ofa.forward_masked(net, variables, images[test], list(subnets.values()))
    top1 = 100 * (logits.argmax(-1) == labels[test]).mean(-1)
    return dict(zip(subnets, map(float, top1)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="in each of the two phases")
    for name, accuracy in main(parser.parse_args().steps).items():
        print(f"{name:<8} top-1 {accuracy:5.1f} %")
