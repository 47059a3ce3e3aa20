"""Small networks that were taken out of supernets with random weights."""

import functools

import jax
import numpy as np

import ofav2_jax as ofa
from ofav2_jax.model.supernet import variable_shapes

DESIGN = "k35753575357535753575-e34634634634634634634-d32423-l54671237546712375467-h3@19+1"
SIMPLE = "k35753575357535753575-e34634634634634634634-d32423-l7-h5@19"


def random_variables(net, seed=0):
    """Variables of a supernet whose layers all do something, made without running it."""
    rng = np.random.default_rng(seed)

    def values(path, leaf):
        kind, scale = path[-1].key, 1.0
        noise = rng.standard_normal(leaf.shape).astype(leaf.dtype)
        if kind in ("scale", "var"):
            return 1 + 0.3 * np.tanh(noise)
        if kind in ("matrix_7to5", "matrix_5to3"):
            return np.eye(leaf.shape[-1], dtype=leaf.dtype) + 0.1 * noise
        if kind == "kernel":
            # Keeps activations from vanishing, however many inputs there are.
            scale = float(1 / np.sqrt(9 if path[-2].key == "depthwise" else leaf.shape[-2]))
        return 0.3 * noise if kind in ("bias", "mean") else scale * noise

    return jax.tree_util.tree_map_with_path(values, variable_shapes(net))


@functools.cache
def standalone(network="ee_dp", design=DESIGN):
    """A network of seven classes."""
    net = ofa.SuperNet(network, 0.1, 7)
    names = ["ant", "bee", "cat", "dog", "eel", "fox", "goat"]
    return ofa.extract(net, random_variables(net), ofa.Design.parse(design), class_names=names)


def images(number, resolution=19, seed=0):
    """Normalised images."""
    return np.random.default_rng(seed).standard_normal((number, resolution, resolution, 3), np.float32)


def pixels(number, resolution=19, seed=0):
    """Images as they come, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (number, resolution, resolution, 3), np.uint8)


def off(found, expected):
    """The largest difference, divided by the largest expected value."""
    return np.abs(np.asarray(found) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()
