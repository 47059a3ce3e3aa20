"""Where the commands keep compiled programs."""

import logging
import os
from pathlib import Path

import jax


def cache_programs() -> None:
    """Keeps compiled programs between runs, in the user's cache directory unless JAX is told otherwise."""
    told = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(told or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        if told is None:
            folder = folder.expanduser() / "ofav2_jax" / "xla"
        if told is None or told.startswith("~"):
            jax.config.update("jax_compilation_cache_dir", str(folder.expanduser()))
    except RuntimeError:
        logging.warning(
            "compiled programs are not kept for later runs, because no home directory is known: set "
            "JAX_COMPILATION_CACHE_DIR, XDG_CACHE_HOME or HOME to keep them"
        )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
