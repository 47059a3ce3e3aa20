"""What a table of a device adds up: blocks within a network, scale and offset, and what no cache holds."""

import numpy as np
import pytest

from ofav2_jax.latency.fit import Fit, within_network
from ofav2_jax.latency.write import JOINTS


def test_what_the_caches_do_not_hold_is_recovered():
    rng = np.random.default_rng(0)
    sums, weights_mb = rng.uniform(200, 1500, 40), rng.uniform(0.3, 22, 40)
    pixels = np.square(rng.choice([48, 56, 64], 40))
    device = Fit(scale=1.1, offset_us=20, cache_mb=9, us_per_mb=45)
    measured = device(sums, weights_mb, pixels) * rng.normal(1, 0.005, 40)
    found = Fit.of(sums[::2], weights_mb[::2], pixels[::2], measured[::2])
    assert np.median(np.abs(found(sums, weights_mb, pixels) / measured - 1)[1::2]) < 0.01
    assert found.us_per_mb == pytest.approx(45, rel=0.1) and found.scale == pytest.approx(1.1, rel=0.03)


def test_what_a_border_costs_is_paid_once():
    """A device on which each file pays for its call, and for the conversion of its maps."""
    call, convert, blocks = 5.0, {0: 4.0, 1: 2.0, 2: 1.5, 3: 1.0, 4: 1.0, 5: 0.5}, {}
    true = {"stem": 40.0}
    for stage in range(1, 6):
        true |= {f"{stage}/first/k3e3": 30.0 + stage, f"{stage}/other/k3e3": 50.0 + stage}
        true |= {f"{stage}/add2": 3.0, f"{stage}/exit": 70.0 + stage, f"{stage}/other/light": 2.0}
    true |= {"ensemble/2": 1.0}
    for name, time in true.items():
        stage, _, kind = name.partition("/")
        reads = stage.isdigit() and not kind.startswith(("add", "other/light"))
        gives = name == "stem" or (reads and kind != "exit")
        first = kind.startswith("first")
        # Half of a border is paid by who gives the map, the other half by who reads it.
        blocks[name] = time + call + reads * convert[int(stage) - first if reads else 0] / 2
        blocks[name] += gives * convert[int(stage) if reads else 0] / 2
    blocks[JOINTS[0]] = true["stem"] + true["1/first/k3e3"] + call + convert[1] / 2
    for stage in range(1, 6):
        blocks[JOINTS[stage]] = 2 * true[f"{stage}/other/k3e3"] + call + convert[stage]
    blocks["overhead"] = call
    found = within_network(blocks)
    # What a border costs is charged to the block behind it, half of which the one before it paid.
    chain = ["stem", "1/first/k3e3", "1/other/k3e3", "2/first/k3e3", "2/other/k3e3"]
    total = call + sum(true[name] for name in chain) + convert[2] / 2
    assert sum(found[name] for name in chain) == pytest.approx(total)
    assert found["3/add2"] == pytest.approx(true["3/add2"]) and found["3/other/light"] == pytest.approx(2)
