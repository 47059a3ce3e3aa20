"""SE_P (Table II): single exit, parallel blocks, on Tiny ImageNet.

python -m experiments.eps --config=configs/se_p.py
ofav2 eps --config=se_p:wm=1.2,teacher=fixed
"""

from configs.common import paper_config


def get_config(arg=None):
    return paper_config("se_p", arg)
