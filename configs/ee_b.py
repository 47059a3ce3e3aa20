"""EE_B (Table II): early exits, on Tiny ImageNet.

python -m experiments.eps --config=configs/ee_b.py
ofav2 eps --config=ee_b:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ee_b", arg)
