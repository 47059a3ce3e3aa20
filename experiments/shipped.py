"""Finds the configs that come with the package, from any working directory."""

import importlib.util
import os
import sys
from pathlib import Path

# Beside this folder, in a clone as well as in an installed package.
_DIRECTORY = Path(__file__).parents[1] / "configs"
# These hold what the configs share.
_NOT_CONFIGS = ("__init__", "authors", "common")


def shipped_configs() -> dict[str, Path]:
    """The files of the shipped configs by their names: `quickstart`, `ee_d`, ..."""
    return {file.stem: file for file in sorted(_DIRECTORY.glob("*.py")) if file.stem not in _NOT_CONFIGS}


def find_config(path: str) -> Path | None:
    """The file that `--config=path` means.

    Args:
        path: of a file; else the name of a shipped config, `ee_d` or `configs/ee_d.py`.

    Returns:
        The file; None if there is neither a file nor a shipped config of this name.
    """
    file = Path(os.path.expanduser(path))
    if file.is_file():
        return file
    name = Path(path).stem if Path(path) == Path("configs", f"{Path(path).stem}.py") else path
    return shipped_configs().get(name)


def similar_configs(path: str) -> dict[str, str]:
    """What may have been meant by a path that `find_config` does not find.

    Returns:
        How each config is written on the command line, by its name: the shipped ones, and those in the directory of
        `path` and in `configs/`.
    """
    files = [*Path(path).parent.glob("*.py"), *Path("configs").glob("*.py")]
    paths = {file.stem: str(file) for file in files if file.stem not in _NOT_CONFIGS}
    names = {name: name for name in shipped_configs()}
    # A path is answered with a path, and a name with a name.
    return names | paths if Path(path).suffix else paths | names


def provide_configs() -> None:
    """Makes the folder of the shipped configs the package `configs` of this process.

    Config files, the shipped ones and users' own, import `configs.common`. By the search path alone that could be a
    folder `configs/` of the user's in the working directory, or nothing at all.
    """
    init = _DIRECTORY / "__init__.py"
    imported = sys.modules.get("configs")
    if imported is not None and vars(imported).get("__file__") == str(init):
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location("configs", init, submodule_search_locations=[str(_DIRECTORY)])
    assert spec is not None and spec.loader is not None
    sys.modules["configs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["configs"])
