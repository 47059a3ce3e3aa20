"""Devices whose time is known: a network takes a microsecond for each multiply-accumulate, and one for the call."""

import functools

import numpy as np

import ofav2_jax as ofa
from ofav2_jax import files
from ofav2_jax.latency import measure
from ofav2_jax.latency.write import prepare
from ofav2_jax.nas.genes import Genes

RESOLUTION, CALL_US = 19, 1.0


def small(network="ee_dp"):
    return ofa.SuperNet(network, 0.1, 7)


def random_designs(net, number, resolution=19):
    """Random designs with random exits, heights and level codes."""
    genes = Genes(net, [resolution], "any")
    many = genes.designs(genes.draw(np.random.default_rng(1), number))
    stages = np.arange(1, 6)
    exits = [tuple(stages[used].tolist()) for used in many.exits]
    return [ofa.Design(subnet, resolution, used) for subnet, used in zip(many.choices.subnets(), exits)]


@functools.cache
def macs(path):
    """Multiply-accumulates of an ONNX file, from its convolutions alone."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    kernels = {array.name: array.dims for array in graph.initializer}
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][2:] for v in graph.value_info}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            height, width = sizes[node.output[0]]
            total += functools.reduce(lambda a, b: a * b, kernels[node.input[1]], height * width)
    return total


def exact_timer(path, threads, batch_size, whole=lambda us: us):
    """See `measure.timer`; what `whole` makes of it is what whole networks take."""
    time = CALL_US + macs(path)
    is_whole = path.parent.name == "whole"
    return lambda: whole(time) if is_whole else time


def shorten(folder, number):
    """Lets the measurement of a folder end after some rounds."""
    plan = files.read_json(folder / "plan.json")
    plan["budget"] = {"min_rounds": number, "max_rounds": number, "seconds": 0}
    files.write_json(folder / "plan.json", plan)


def times_of(folder, whole=lambda us: us, rounds=2):
    """What `measure.main` gives for a prepared folder on such a device, without a file."""
    shorten(folder, rounds)
    (folder / "times.json").unlink(missing_ok=True)
    timer = functools.partial(exact_timer, whole=whole)
    return measure.main(folder, lambda line: None, timer)


def prepared(folder, network="ee_dp", resolutions=(RESOLUTION,)):
    """A prepared folder."""
    prepare(small(network), list(resolutions), folder)
    return folder
