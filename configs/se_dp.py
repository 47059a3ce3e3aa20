"""SE_DP (Table II): single exit, dense skips and parallel blocks, on Tiny ImageNet.

python -m experiments.eps --config=configs/se_dp.py
ofav2 eps --config=se_dp:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("se_dp", arg)
