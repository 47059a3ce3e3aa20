"""Locks by files: who waits, who is refused, what is left."""

import errno
import logging
import os
import threading

import pytest

from ofav2_jax import files
from ofav2_jax.locking import LockedError, locked


def test_one_at_a_time_and_nothing_is_left(tmp_path, caplog):
    """Threads that open a file by themselves exclude each other as processes do."""
    path, inside, most = tmp_path / "folder" / "lock", [], []

    def work(number):
        with locked(path, "counts") as is_locked:
            assert is_locked and f"process {os.getpid()} on " in path.read_text()
            inside.append(number)
            most.append(len(inside))
            first_inside.set()
            waiting.wait(10)
            inside.remove(number)

    class Said(logging.Handler):
        def emit(self, record):
            waiting.set()

    first_inside, waiting, handler = threading.Event(), threading.Event(), Said()
    logging.getLogger().addHandler(handler)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
        # Who comes before the first one has written its name does not know for whom it waits.
        assert first_inside.wait(10)
    for thread in threads:
        thread.join()
    logging.getLogger().removeHandler(handler)
    assert most == [1, 1, 1, 1] and not path.exists()
    # Each that has to wait says so once.
    assert 1 <= len(caplog.records) <= 3
    assert f"waiting for process {os.getpid()} on" in caplog.text and f", which counts ({path})" in caplog.text


def test_who_does_not_wait_is_told_who_has_it(tmp_path):
    with locked(tmp_path / "lock", None):
        with pytest.raises(LockedError, match=f"^process {os.getpid()} on "):
            with locked(tmp_path / "lock", None):
                pass
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_locks_nothing(tmp_path):
    (tmp_path / "lock").write_text("process 7 on other, which had a long name\n")
    with locked(tmp_path / "lock", None):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
        assert "long name" not in (tmp_path / "lock").read_text()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_of_another_machine(tmp_path, monkeypatch, number):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    (tmp_path / "lock").write_text("process 7 on other\n")
    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(LockedError, match=r"^process 7 on other$"):
        with locked(tmp_path / "lock", None):
            pass
    assert (tmp_path / "lock").read_text() == "process 7 on other\n"


def test_two_that_write_a_file_at_once(tmp_path, monkeypatch):
    """The second one begins and ends while the first one is between writing and renaming."""
    path = tmp_path / "page.html"
    replace = type(path).replace

    def second_first(partial, target):
        monkeypatch.undo()
        files.write_text(path, "second")
        assert path.read_text() == "second"
        return replace(partial, target)

    monkeypatch.setattr(type(path), "replace", second_first)
    files.write_text(path, "first")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
