"""SE_D (Table II): single exit, dense skips, on Tiny ImageNet.

python -m experiments.eps --config=configs/se_d.py
ofav2 eps --config=se_d:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("se_d", arg)
