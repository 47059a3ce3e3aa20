"""The settings of the authors' published training script, as changes of a config."""

from ml_collections import ConfigDict

from ofav2_jax.settings.authors import authors_settings


def use_authors_settings(config: ConfigDict) -> None:
    """Changes a config with the paper's settings to the authors', where they are others."""
    theirs = authors_settings(config.network)
    config.batch_size, config.resolutions, config.dtype = theirs.batch_size, theirs.resolutions, theirs.dtype
    for phase in theirs.phases:
        if phase.key in config.phases:
            config.phases[phase.key].learning_rate = phase.learning_rate
    config.recipe.exit_weights = theirs.recipe.exit_weights
    config.recipe.decay_unreached = theirs.recipe.decay_unreached
    config.evaluation.protocol = theirs.evaluation.protocol
