"""`LatencyTable`: what subnets take on a device, from measured blocks."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import is_number, local_file, refuse, require_among, require_package, shown
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.latency import measure
from ofav2_jax.latency.blocks import block_counts, block_names
from ofav2_jax.latency.fit import Fit, errors, within_network
from ofav2_jax.latency.networks import Say, time_networks
from ofav2_jax.latency.times import (
    DEVICE_FIELDS,
    NET_FIELDS,
    SETTING_FIELDS,
    net_of,
    of_rounds,
    plan_and_rounds,
    read_times,
    require_device,
)
from ofav2_jax.latency.write import JOINTS, OVERHEAD, make_plan, prepare, whole
from ofav2_jax.model.costs import Costs
from ofav2_jax.model.design import Design
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.nas.genes import Designs

FORMAT = "ofav2_jax.latency/1"
_HELD_OUT = ("n", "median_pct", "within_10pct", "tau", "repeat_noise_pct", "repeat_noise_max_pct")
_BYTES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyTable:
    """Times of all blocks of a supernet's subnets on a device, and their fit to whole networks.

    Attributes:
        net: the supernet.
        resolutions: height and width of the images, pixels, in ascending order.
        setting: "dtype", "threads" and "batch_size".
        device: the "device" with its "processor", "runtime", "version" and "provider".
        blocks_us: what a block adds to a network, by "RESOLUTION/BLOCK", microseconds; see `block_names`.
        fit: from sums of these to whole networks.
        held_out: how good the fit is for networks that it was not made with: "n" of them, the median error
            "median_pct", the share "within_10pct", Kendall's "tau"; and by how much two halves of the measurement of a
            network differ, "repeat_noise_pct" in the median and "repeat_noise_max_pct" at most.
    """

    net: SuperNet
    resolutions: tuple[int, ...]
    setting: Mapping[str, Any]
    device: Mapping[str, Any]
    blocks_us: Mapping[str, float]
    fit: Fit
    held_out: Mapping[str, float]

    # --- making it ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        net: SuperNet,
        resolutions: Sequence[int],
        threads: int = 1,
        batch_size: int = 1,
        *,
        say: Say = print,
        make_timer: Callable[..., Callable[[], float]] = measure.timer,
    ) -> "LatencyTable":
        """Measures a table on this machine, in some minutes.

        Args:
            net: the supernet; its weights are not needed.
            resolutions: height and width of the images, pixels.
            threads: threads that a network runs on.
            batch_size: images that it runs on.
            say: is told the progress, a line each time.
            make_timer: measures a file, see `measure.timer`.

        Raises:
            ValueError: naming the field, the value and what is allowed.
            ImportError: without the extra `export`.
        """
        make_plan(net, resolutions, threads, batch_size)
        require_package("onnxruntime", "export")
        with tempfile.TemporaryDirectory() as directory:
            say("writing blocks and whole networks")
            prepare(net, resolutions, directory, threads, batch_size)
            return cls.of_times(measure.main(Path(directory), say, make_timer))

    @classmethod
    def collect(cls, path: str | os.PathLike) -> "LatencyTable":
        """Makes the table of what `measure.py` wrote on a device.

        Raises:
            ValueError: if the file is no such file, damaged, or not complete.
        """
        return cls.of_times(read_times(path))

    @classmethod
    def of_times(cls, content: Mapping[str, Any]) -> "LatencyTable":
        """The table of the content of `times.json`.

        Raises:
            ValueError: if it is not what a plan of this version asks for.
        """
        plan, rounds = plan_and_rounds(content)
        net = net_of(plan)
        times = {name: float(of_rounds(of_file)) for name, of_file in rounds.items()}
        blocks_us: dict[str, float] = {}
        for size in plan["resolutions"]:
            of_size = {name: times[f"{size}/{name}"] for name in (*block_names(net), *JOINTS, OVERHEAD)}
            blocks_us |= {f"{size}/{name}": time for name, time in within_network(of_size).items()}
        table = cls(
            net=net,
            resolutions=tuple(plan["resolutions"]),
            setting={name: plan[name] for name in SETTING_FIELDS},
            device={name: content[name] for name in DEVICE_FIELDS},
            blocks_us=blocks_us,
            fit=Fit(1.0, 0.0),
            held_out={},
        )
        designs = Designs.stack([Design.parse(design) for design in plan["designs"]])
        return table._fitted(designs, np.array([rounds[whole(place)] for place in range(len(designs))]))

    def _fitted(self, designs: Designs, rounds: np.ndarray) -> "LatencyTable":
        """This table with its fit to whole networks, measured [N, rounds]; every other one tests it."""
        inputs, measured = self._inputs(designs), of_rounds(rounds)
        sums, weights_mb, pixels = (values[::2] for values in inputs)
        fit = Fit.of(sums, weights_mb, pixels, measured[::2])
        halves = np.array([of_rounds(half) for half in np.array_split(rounds[1::2], 2, axis=1)])
        found = errors(fit(*inputs)[1::2], measured[1::2], halves)
        return dataclasses.replace(self, fit=fit, held_out=found)

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Writes a JSON file, which `load` reads; at every moment there is the old file or the new one.

        Raises:
            ValueError: if the name does not end in .json.
            OSError: if it cannot be written.
        """
        content = {
            "format": FORMAT,
            **self.device,
            **self.setting,
            **{name: getattr(self.net, name) for name in NET_FIELDS},
            "resolutions": list(self.resolutions),
            "fit": dataclasses.asdict(self.fit),
            "held_out": dict(self.held_out),
            "blocks_us": dict(self.blocks_us),
        }
        files.write_json(local_file("path", path, ".json"), content)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LatencyTable":
        """Reads a file that `save` wrote.

        Raises:
            ValueError: if it is no such file, or is damaged; names the file and the reason.
        """
        file = local_file("path", path, ".json")
        content = files.read_json(file)
        try:
            if content.get("format") != FORMAT:
                raise ValueError(f"its format is {shown(content.get('format'))}, not {FORMAT!r}")
            net = net_of(content)
            plan = make_plan(net, content["resolutions"], content["threads"], content["batch_size"])
            blocks = {f"{size}/{name}" for size in plan["resolutions"] for name in block_names(net)}
            _require_numbers("blocks_us", content["blocks_us"], blocks)
            _require_numbers("fit", content["fit"], {field.name for field in dataclasses.fields(Fit)})
            _require_numbers("held_out", content["held_out"], set(_HELD_OUT))
            require_device(content)
            require_among("dtype", content["dtype"], [plan["dtype"]])
            return cls(
                net=net,
                resolutions=tuple(plan["resolutions"]),
                setting={name: content[name] for name in SETTING_FIELDS},
                device={name: content[name] for name in DEVICE_FIELDS},
                blocks_us=content["blocks_us"],
                fit=Fit(**content["fit"]),
                held_out=content["held_out"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as reason:
            raise ValueError(f"{file} is not a latency table: {files.reason(reason)}") from reason

    # --- using it ----------------------------------------------------------------------------------------------------

    def require_fit(self, net: SuperNet, resolutions: Sequence[int]) -> None:
        """Refuses a network that the table is not of.

        Raises:
            ValueError: naming what differs.
        """
        for name in NET_FIELDS:
            own, other = getattr(self.net, name), getattr(net, name)
            if own != other:
                raise ValueError(f"the latency table is of {name}={own!r}, not {other!r}")
        for resolution in resolutions:
            if resolution not in self.resolutions:
                known = ", ".join(map(str, self.resolutions))
                raise ValueError(f"the latency table is of the resolutions {known}, not {resolution}")

    def predict(self, designs: Designs | Sequence[Design]) -> np.ndarray:
        """What designs take.

        Args:
            designs: N designs, as arrays or as a list.

        Returns:
            Milliseconds for a batch of the table's size, float64 [N].

        Raises:
            ValueError: for designs that the network does not hold, and resolutions that the table does not have.
        """
        if not isinstance(designs, Designs):
            designs = Designs.stack(designs)
        self.require_fit(self.net, np.unique(designs.resolution).tolist())
        return 1e-3 * self.fit(*self._inputs(designs))

    def _sums(self, designs: Designs) -> np.ndarray:
        """Sums over the blocks of designs, microseconds."""
        place = np.searchsorted(self.resolutions, designs.resolution)
        return (block_counts(self.net, designs) * self._times[place]).sum(1)

    def _inputs(self, designs: Designs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `Fit` needs of designs."""
        params = self._costs(designs.choices, designs.resolution, designs.exits).params
        pixels = self.setting["batch_size"] * np.square(designs.resolution)
        return self._sums(designs), 1e-6 * _BYTES * np.asarray(params), pixels

    @functools.cached_property
    def _times(self) -> np.ndarray:
        """Microseconds, [resolutions, blocks]."""
        names = block_names(self.net)
        return np.array([[self.blocks_us[f"{size}/{name}"] for name in names] for size in self.resolutions])

    @functools.cached_property
    def _costs(self) -> Costs:
        return Costs(self.net)

    def measure(self, alone: Standalone) -> float:
        """Measures a whole network as the table was measured.

        Returns:
            Milliseconds for a batch of the table's size.

        Raises:
            ValueError: if the table is of another processor or runtime than this machine's.
            ImportError: without the extra `export`.
        """
        self.require_here()
        return time_networks([alone], self.setting["threads"], self.setting["batch_size"])[0]

    def require_here(self) -> None:
        """Refuses a machine that the table is not of.

        Raises:
            ValueError: naming what differs.
            ImportError: without the extra `export`.
        """
        require_package("onnxruntime", "export")
        here = measure.device()
        for name in DEVICE_FIELDS:
            if self.device[name] != here[name]:
                raise ValueError(
                    f"the latency table is of {name} {shown(self.device[name])}, here is {shown(here[name])}"
                )


def _require_numbers(field: str, found: Any, names: set[str]) -> None:
    if not isinstance(found, Mapping) or set(found) != names:
        example = sorted(names ^ set(found))[0] if isinstance(found, Mapping) else ""
        raise ValueError(f"{field} {'lacks' if example in names else 'must not have'} {example!r}")
    for name, value in found.items():
        if not is_number(value):
            refuse(f"{field} {name}", value, "a number")
