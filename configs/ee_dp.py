"""EE_DP (Table II): early exits, dense skips and parallel blocks, on Tiny ImageNet.

python -m experiments.eps --config=configs/ee_dp.py
ofav2 eps --config=ee_dp:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ee_dp", arg)
