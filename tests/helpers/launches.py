"""Records the programs that a process launches on several devices, in their order."""

from pathlib import Path

from jax._src import pjit
from jax._src.interpreters import pxla


def record(path: Path) -> None:
    """Writes the name of every program to a file, a line each, when it is launched.

    JAX launches a program in Python the first time only, and from then on in C++, where nothing can be seen of it: that
    way is closed here.
    """
    file = path.open("w", encoding="utf-8", buffering=1)
    launch = pxla.ExecuteReplicated.__call__

    def recorded(self, *args):
        if len(self.xla_executable.local_devices()) > 1:
            file.write(f"{self.name}\n")
        return launch(self, *args)

    pxla.ExecuteReplicated.__call__ = recorded
    pxla.MeshExecutable.create_cpp_call = lambda *args: None
    pjit._get_fastpath_data = lambda *args: None
