"""Files that one process at a time locks; the system unlocks them when that process ends, however it ends."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class LockedError(Exception):
    """Another process has locked a file; its text says which one."""


def try_lock(file: IO[str], consequence: str) -> bool:
    """Locks a file for this process, until it is closed, and writes into it which process that is.

    Args:
        file: is open for appending and reading.
        consequence: the end of the warning where the file system has no locks.

    Returns:
        Whether it is locked; False where the file system has no locks.

    Raises:
        LockedError: if another process has locked it.
    """
    is_locked = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # NFS, where it has locks, says of one that another process holds that access is denied.
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        raise LockedError(file.read().strip() or "another process") from error
    except OSError as error:
        # Lustre and NFS may be mounted without locks.
        logging.warning("%s cannot be locked (%s): %s", file.name, error.strerror, consequence)
        is_locked = False
    _sign(file)
    return is_locked


def _sign(file: IO[str]) -> None:
    # The name of a process that was killed may stand in it.
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()


@contextlib.contextmanager
def locked(path: Path, purpose: str | None) -> Iterator[bool]:
    """Locks a file while the body of a `with` runs; the file is made for that, and removed afterwards.

    Args:
        path: the file; its folder is made if necessary.
        purpose: what it is locked for, for the warning that another process is waited for, such as "writes the cache";
            None: do not wait.

    Yields:
        Whether it is locked, see `try_lock`.

    Raises:
        LockedError: if another process has locked it, and is not waited for.
        OSError: if the file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        said = False
        while True:
            # Who held the lock before may have removed an empty folder, too.
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
            try:
                is_locked = try_lock(file, "going on without a lock")
            except LockedError as other:
                if purpose is None:
                    raise
                if not said:
                    logging.warning("waiting for %s, which %s (%s)", other, purpose, path)
                said = True
                fcntl.flock(file, fcntl.LOCK_EX)
                is_locked = True
                _sign(file)
            # Who held the lock before has removed the file: the next process would lock another one.
            with contextlib.suppress(FileNotFoundError):
                if not is_locked or os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
        try:
            yield is_locked
        finally:
            path.unlink(missing_ok=True)
