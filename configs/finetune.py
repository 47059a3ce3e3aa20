"""Fine-tunes one design of a supernet that was trained.

    python -m experiments.finetune --run=runs/quickstart --subnet=k5-e4-d3-l7-h4@32 --workdir=runs/tuned
    ofav2 finetune --run=runs/quickstart --subnet=k5-e4-d3-l7-h4@32 --workdir=runs/tuned

Everything that is not here, the images, their splits and how networks are evaluated among it, is as in the supernet's
run. The defaults, which these are, and what they mean: ofav2_jax/settings/finetuning.py.
"""

import dataclasses
import typing

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.common import parse_arguments
from ofav2_jax.settings.finetuning import Finetuning


def get_config(arg=None):
    parse_arguments(arg, {})
    config = ConfigDict()
    hints = typing.get_type_hints(Finetuning)
    for field in dataclasses.fields(Finetuning):
        is_optional = field.default is None
        config[field.name] = placeholder(typing.get_args(hints[field.name])[0]) if is_optional else field.default
    config.checkpoint = ConfigDict()
    # Seconds between checkpoints inside an epoch; each epoch ends with one anyway.
    config.checkpoint.every_s = 60.0
    return config
