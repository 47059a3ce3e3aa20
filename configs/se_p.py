"""SE_P (Table II): single exit, parallel blocks, on Tiny ImageNet.

Hardware   one GPU or TPU, or several; any device of JAX works.
Time       not measured for 755 epochs of 425 steps, on any hardware; see configs/common.py.
Expected   23.42 / 36.17 %, mean / best test top-1 of all uniform subnets after the last phase: from the paper
           (Table IV), not reproduced here. Its other numbers are in ofav2_jax/report/paper_tables.json.

python -m experiments.eps --config=configs/se_p.py
ofav2 eps --config=se_p:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("se_p", arg)
