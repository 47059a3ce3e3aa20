"""OFA_MBV3 (Table II): the Once-For-All baseline, on Tiny ImageNet.

python -m experiments.eps --config=configs/ofa_mbv3.py
ofav2 eps --config=ofa_mbv3:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("ofa_mbv3", arg)
