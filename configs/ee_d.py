"""EE_D (Table II): early exits, dense skips, on Tiny ImageNet.

Hardware   one GPU or TPU, or several; any device of JAX works.
Time       51 minutes on an H100, from steps that were measured there; 915 epochs of 425 steps were not. See
           configs/common.py.
Expected   44.22 / 51.90 %, mean / best test top-1 of all uniform subnets after the last phase: from the paper
           (Table IV), not reproduced here. Its other numbers are in ofav2_jax/report/paper_tables.json.
Measured   on 2 CPU cores (benchmarks/README.md, docs/results.md): a step on a batch of 64 takes 0.37 s in phase
           full and 0.75 s in width-2; `:smoke` takes 6 min 35 s and ends at 44.60 / 57.00 % on 4 classes; 15 epochs on
           20 classes end at 38.40 / 45.60 %. None of these says what a full run reaches.

python -m experiments.eps --config=configs/ee_d.py
ofav2 eps --config=ee_d:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ee_d", arg)
