"""What makes programs faster on CPUs and has to be settled before they start."""

import os
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_OPTIONS = "xla_backend_extra_options"


def prepare() -> None:
    """Sets compiler flags and, for huge pages, may start this program over as the same process.

    To be called before anything is computed. What the environment says already is left as it is.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _OPTIONS not in flags:
        # Loops that are not unrolled compile in a tenth less time and run as fast. As a flag, because the options of
        # a single program cannot say it; XLA versions that do not know the option, and GPUs, pass over it.
        os.environ["XLA_FLAGS"] = f"{flags} --{_OPTIONS}=xla_cpu_disable_loop_unrolling".strip()
    _use_huge_pages()


def _use_huge_pages() -> None:
    """Steps allocate gigabytes, each anew, in pages of 4 KB that the kernel zeroes: huge ones are a fifth faster.

    The C library reads the setting once, before a program runs. Nothing happens where it is set, or where the kernel
    gives huge pages to nobody or to everybody.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not _MODE.exists() or "[madvise]" not in _MODE.read_text(encoding="utf-8"):
        return
    setting = ":".join(filter(None, [tunables, f"{_TUNABLE}=1"]))
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": setting})
