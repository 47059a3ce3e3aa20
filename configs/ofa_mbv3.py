"""OFA_MBV3 (Table II): the Once-For-All baseline, on Tiny ImageNet.

Hardware   one GPU or TPU, or several; any device of JAX works.
Time       not measured for 605 epochs of 425 steps, on any hardware; see configs/common.py.
Expected   40.03 / 42.23 %, mean / best test top-1 of all uniform subnets after the last phase: from the paper
           (Table IV), not reproduced here. Its other numbers are in ofav2_jax/report/paper_tables.json.
Measured   on 2 CPU cores (benchmarks/README.md, docs/results.md): a step on a batch of 64 takes 0.35 s in phase
           full and 1.01 s in width-2; 11 epochs on 20 classes end at 29.68 / 34.40 %. Neither says what a full run
           reaches.

python -m experiments.eps --config=configs/ofa_mbv3.py
ofav2 eps --config=ofa_mbv3:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ofa_mbv3", arg)
