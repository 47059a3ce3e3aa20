"""EE_DP (Table II): early exits, dense skips and parallel blocks, on Tiny ImageNet.

Hardware   one GPU or TPU, or several; any device of JAX works.
Time       not measured for 1,065 epochs of 425 steps, on any hardware; see configs/common.py.
Expected   30.20 / 46.24 %, mean / best test top-1 of all uniform subnets after the last phase: from the paper
           (Table IV), not reproduced here. Its other numbers are in ofav2_jax/report/paper_tables.json.

python -m experiments.eps --config=configs/ee_dp.py
ofav2 eps --config=ee_dp:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ee_dp", arg)
