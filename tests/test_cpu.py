"""The environment variables that are set before a program starts."""

import os
import sys

import pytest

from ofav2_jax.runtime import cpu

NOT_UNROLLED = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Arguments of each call that starts the program over, with a kernel that gives huge pages on request."""
    for name in ("XLA_FLAGS", "GLIBC_TUNABLES"):
        # Set first, so that monkeypatch restores the variable whatever the test leaves there.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(cpu, "_MODE", tmp_path / "enabled")
    environments = []
    monkeypatch.setattr(os, "execve", lambda *arguments: environments.append(arguments))
    return environments


def test_program_is_started_over_once(started, monkeypatch):
    cpu.prepare()
    ((program, arguments, environment),) = started
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1" and environment["XLA_FLAGS"] == NOT_UNROLLED
    for name in ("GLIBC_TUNABLES", "XLA_FLAGS"):
        monkeypatch.setenv(name, environment[name])
    cpu.prepare()
    assert len(started) == 1 and os.environ["XLA_FLAGS"] == NOT_UNROLLED


@pytest.mark.parametrize("mode", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_kernel_that_is_not_asked_for_huge_pages(started, mode):
    cpu._MODE.write_text(mode) if mode else cpu._MODE.unlink()
    cpu.prepare()
    assert not started and os.environ["XLA_FLAGS"] == NOT_UNROLLED


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--xla_dump_to=here", f"--xla_dump_to=here {NOT_UNROLLED}"),
        ("--xla_backend_extra_options=some", "--xla_backend_extra_options=some"),
    ],
)
def test_flags_that_were_given_stay(started, monkeypatch, given, expected):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    cpu.prepare()
    assert os.environ["XLA_FLAGS"] == expected
    assert started[0][2]["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
