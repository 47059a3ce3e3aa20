"""EE_B (Table II): early exits, on Tiny ImageNet.

Hardware   one GPU or TPU, or several; any device of JAX works.
Time       not measured for 915 epochs of 425 steps, on any hardware; see configs/common.py.
Expected   44.18 / 51.64 %, mean / best test top-1 of all uniform subnets after the last phase: from the paper
           (Table IV), not reproduced here. Its other numbers are in ofav2_jax/report/paper_tables.json.

python -m experiments.eps --config=configs/ee_b.py
ofav2 eps --config=ee_b:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ee_b", arg)
