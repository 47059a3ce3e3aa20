"""EE_P (Table II): early exits, parallel blocks, on Tiny ImageNet.

python -m experiments.eps --config=configs/ee_p.py
ofav2 eps --config=ee_p:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ee_p", arg)
