"""The output of the commands."""

import sys


def print_anything() -> None:
    """Makes this process print every character; those that the terminal's encoding lacks appear as escapes."""
    for stream in (sys.stdout, sys.stderr):
        # Notebooks have streams of their own.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
