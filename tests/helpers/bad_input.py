"""What tests of refused command lines of `experiments.eps` share."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUICKSTART = "--config=configs/quickstart.py"
EE_D = "--config=configs/ee_d.py"


def not_allowed(field, value, allowed):
    return re.escape(f"{field}={value} is not allowed: it must be {allowed}")


def reading(*args, **kwargs):
    raise AssertionError("data is read")
