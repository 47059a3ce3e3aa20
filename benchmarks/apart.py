"""What is compared runs in processes of its own: no memory or thread of one candidate is in another one's way."""

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

# Several processes share a GPU: none, this one included, may take most of its memory at the start.
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


class Apart:
    """An object in another process, which does nothing unless it is called.

    Args:
        make: makes the object there; a function or class of a module.
        *args: of `make`.

    Raises:
        Exception: what `make` raises.
    """

    def __init__(self, make: Callable[..., Any], *args: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._process.start()
        self._answer()

    def __call__(self, method: str, *args: Any) -> Any:
        """Calls a method of the object; returns what it returns."""
        self._pipe.send((method, args))
        return self._answer()[0]

    def seconds(self, method: str, *args: Any) -> float:
        """Calls a method of the object; returns how long it took."""
        self._pipe.send((method, args))
        return self._answer()[1]

    def _answer(self):
        error, *answer = self._pipe.recv()
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    def call(function, args):
        started = time.perf_counter()
        try:
            result = function(*args)
        except Exception as error:
            pipe.send((error, None, 0.0))
        else:
            seconds = time.perf_counter() - started
            # The object itself stays here.
            pipe.send((None, None if function is make else result, seconds))
            return result

    made = call(make, args)
    while made is not None:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        call(getattr(made, method), args)
