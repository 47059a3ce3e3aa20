"""Huge pages for what a step allocates on a CPU: gigabytes, anew each time, in pages of 4 KB that the kernel zeroes."""

import os
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Starts this program over, as the same process, with a C library that asks for huge pages (a fifth faster).

    glibc reads the setting once, before a program runs. Nothing happens where it is set, or where the kernel gives
    huge pages to nobody or to everybody.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not _MODE.exists() or "[madvise]" not in _MODE.read_text():
        return
    setting = ":".join(filter(None, [tunables, f"{_TUNABLE}=1"]))
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": setting})
