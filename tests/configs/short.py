"""The first two phases of `tiny`, whose compiled programs it shares."""

from tests.configs import tiny


def get_config(arg=None):
    config = tiny.get_config(arg)
    config.name = "short"
    for name in list(config.phases):
        if name not in ("full", "kernel"):
            del config.phases[name]
    return config
