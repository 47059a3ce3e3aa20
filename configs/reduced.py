"""Any network on 20 classes of Tiny ImageNet, in half an hour on 2 CPU cores: to compare networks and recipes.

    python -m experiments.eps --config=configs/reduced.py:network=ee_d --config.seed=1 --workdir=runs/reduced/ee_d-1
    ofav2 eps --config=reduced:network=ofa_mbv3,teacher=fixed,classes=10,epochs=0.04
    python -m experiments.tables --seeds runs/reduced/*

Arguments: `network=NETWORK` (ee_d), `teacher=progressive|fixed`, `classes=N` (the first N, 20), `epochs=F` (F times the
epochs of Table III, at least one each; 0.02), `wm=1.0|1.2`, `sandwich` (see `configs.common`; slower steps).

As in the paper: all phases in their order, with their numbers of subnets and, but for phase full, their learning rates;
resolutions; augmentation; the test after each phase, on all test images of these classes. Reduced: classes and epochs.
Two numbers are other ones: batches have 64 images, because 8,500 training images are 42 batches of 200 an epoch, too
few updates; and phase full has the learning rate 0.05, because at the paper's 1e-3 a short run's teacher, from which
all later phases learn, would hardly be trained.

Hardware   2 CPU cores (with AVX-512, for the time below).
Time       EE_D with its defaults: 28 minutes, 2 more where nothing is compiled yet. Planned, not measured, from
           benchmarks/README.md: 2,376 steps (528 of phase full at 0.47 s, 264 of one subnet at 0.46 s, 1,188 of two at
           0.60 s, 396 of four at 0.88 s), tests of 228 trunks at 2.45 s, all of that at 64 pixels and times 0.8 for the
           mean of three resolutions; validation after 18 epochs, 32 trunks at 3.1 s.
Expected   docs/results.md has what `classes=10` with `--config.resolutions='(48,)'` gave, three seeds of four
           networks: EE_D ends at 48 / 54 %, mean / best test top-1 of its subnets, after some 17 minutes of one
           core. With the defaults here nothing was run to its end. Six times as many epochs of 20 classes and 64
           pixels alone, on a GPU, ended at 57.4 / 61.2 %.
"""

from configs.common import PARSERS, config_with, one_of, parse_arguments, run_name
from ofav2_jax.model.network import NETWORKS

_DEFAULTS = {"network": "ee_d", "classes": 20, "epochs": 0.02}


def get_config(arg=None):
    shared = ("wm", "teacher", "epochs", "classes", "sandwich")
    parsers = {"network": one_of(*NETWORKS), **{name: PARSERS[name] for name in shared}}
    values = _DEFAULTS | parse_arguments(arg, parsers)
    network = values["network"]
    config = config_with(network, values)
    others = [item for item in (arg or "").split(",") if not item.startswith("network=")]
    config.name = run_name(f"reduced-{network}", ",".join(others))
    config.batch_size = 64
    config.phases.full.learning_rate = 0.05
    return config
