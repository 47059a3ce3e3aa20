"""EE_D (Table II): early exits, dense skips, on Tiny ImageNet.

python -m experiments.eps --config=configs/ee_d.py
ofav2 eps --config=ee_d:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ee_d", arg)
