"""Wrong config files, and a function that expects that a command line is refused."""

import dataclasses
import json
import re

import pytest

from configs import quickstart
from experiments import eps
from experiments.config import settings_from_config
from tests.helpers.bad_input import ROOT

# Config files as a user might write them.
FILES = {
    "no_function.py": "config = 1",
    "no_config.py": "def get_config():\n    return None",
    "plain_dict.py": "def get_config():\n    return {'seed': 0}",
    "syntax.py": "def get_config(:\n",
    "name_error.py": "def get_config():\n    seed = 0\n    return sede",
    "missing_module.py": "import no_such_module",
    "no_arguments.py": "def get_config():\n    pass",
    "misspelt.py": "config.recipe.momentun = 0.8",
    "misspelt_section.py": "config.evalution = dict(batch_size=100)",
    "misspelt_phase.py": "config.phases['dept_1'] = dict(epochs=3)",
    "lacking_field.py": "del config.seed",
    "lacking_full.py": "del config.phases.full",
    "no_section.py": "del config.data\nconfig.data = 3",
    "no_network.py": "del config.network",
    "wrong_type.py": "config.batch_size = 'many'",
    "flip.py": "del config.data.flip\nconfig.data.flip = 1",
    "one_resolution.py": "del config.resolutions\nconfig.resolutions = 32",
    "exit_weights.py": "del config.recipe.exit_weights\nconfig.recipe.exit_weights = (1, 1, 1)",
    "infinite_exit.py": "del config.recipe.exit_weights\nconfig.recipe.exit_weights = (1, 1, 1, 1, float('inf'))",
    "boolean.py": "del config.batch_size\nconfig.batch_size = True",
    "number_as_name.py": "del config.name\nconfig.name = 7",
}
CHANGES_QUICKSTART = """
from configs import quickstart

def get_config():
    config = quickstart.get_config()
    {}
    return config
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A working directory with the repository's configs, wrong configs, and two directories of runs."""
    path = tmp_path_factory.mktemp("bad_input")
    (path / "configs").symlink_to(ROOT / "configs")
    for name, text in FILES.items():
        whole = (
            text if re.match("def|import|config = ", text) else CHANGES_QUICKSTART.format(text.replace("\n", "\n    "))
        )
        (path / name).write_text(whole)
    for name in ("other", "broken"):
        (path / name).mkdir()
    other = dataclasses.replace(settings_from_config(quickstart.get_config()), seed=1)
    (path / "other" / "settings.json").write_text(json.dumps(other.as_json()))
    (path / "broken" / "settings.json").write_text("{")
    return path


@pytest.fixture
def refuse(directory, monkeypatch, capsys):
    """A function that runs a command line, asserts that it is refused in one line, and returns that line."""
    monkeypatch.chdir(directory)

    def run(arguments):
        before = sorted(directory.rglob("*"))
        assert eps.main(["eps", *arguments]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith("error: ") and err.endswith("\n") and len(err.splitlines()) == 1
        assert sorted(directory.rglob("*")) == before
        return err.removeprefix("error: ")

    return run
