"""The command `ofav2`: what it starts, and that it works where the package is installed, from any directory."""

import configparser
import importlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import commands, eps, shipped
from experiments.arguments import load_config
from ofav2_jax import __version__
from ofav2_jax.run.run import StoppedError
from ofav2_jax.runtime import cpu

ROOT = Path(__file__).parents[1]
RAISES = "raise RuntimeError('a file of the working directory is run')\n"
OWN_CONFIG = """
from configs import quickstart
from configs.common import parse_arguments

def get_config(arg=None):
    parse_arguments(arg, {})
    config = quickstart.get_config()
    config.name = "own"
    return config
"""


def entry_point():
    """The module and the function that `ofav2` runs."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, target = setup["options.entry_points"]["console_scripts"].split("=")
    assert name.strip() == "ofav2"
    return target.strip().split(":")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with what `pip install` puts into site-packages."""
    path = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "build_py", "--build-lib", path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return path


@pytest.fixture
def elsewhere(tmp_path):
    """A working directory with folders of the same names as those of a clone."""
    path = tmp_path / "elsewhere"
    for file, text in {
        "configs/__init__.py": "",
        "configs/common.py": RAISES,
        "configs/ee_d.py": RAISES,
        "configs/quickstart.py": RAISES,
        "experiments/__init__.py": RAISES,
        "own.py": OWN_CONFIG,
    }.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(text)
    return path


@pytest.fixture
def ofav2(installed, elsewhere):
    """Runs the installed command in a process of its own."""
    module, function = entry_point()

    # With `-c` the working directory comes first on the search path, where a script's own directory would.
    def run(*arguments, before=""):
        code = f"{before}import sys; from {module} import {function}; sys.exit({function}())"
        environment = os.environ | {"PYTHONPATH": str(installed)}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    return run


# --- what there is ------------------------------------------------------------------------------------------------


def test_every_command_can_be_started():
    assert {"eps", "finetune", "tables", "report"} <= set(commands.COMMANDS)
    for each in commands.COMMANDS.values():
        assert callable(importlib.import_module(f"experiments.{each.module}").command)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_usage_has_a_line_for_each_command(arguments, capsys):
    assert commands.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, each in commands.COMMANDS.items():
        assert sum(line.startswith(f"    ofav2 {name} ") and line.endswith(each.summary) for line in lines) == 1


def test_version(capsys):
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ofav2_jax {__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"), [("tabels", "; did you mean 'tables'?"), ("--verison", "; did you mean '--version'?"), ("x", "")]
)
def test_unknown_command(name, hint, capsys):
    assert commands.main([name, "--config=ee_d"]) == 2
    choices = ", ".join(commands.COMMANDS)
    assert capsys.readouterr() == ("", f"error: command {name!r} is unknown; choose one of {choices}{hint}\n")


@pytest.mark.parametrize("name", sorted(set(commands.COMMANDS) - {"eps", "finetune"}))
def test_ctrl_c_is_one_line(name, monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    module = importlib.import_module(f"experiments.{commands.COMMANDS[name].module}")
    monkeypatch.setattr(module, "print_anything", interrupted)
    assert module.command([], f"ofav2 {name}") == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


def test_only_what_computes_prepares_the_process(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cpu, "prepare", lambda: calls.append("prepare"))
    monkeypatch.setattr(eps, "launch", lambda *arguments: calls.append(arguments))
    commands.main(["eps", "--config=ee_d", "--dry_run"])
    assert calls == ["prepare", (["ofav2 eps", "--config=ee_d", "--dry_run"], "ofav2 eps")]
    assert commands.main(["tables", "nothing"]) == 2 and commands.main(["report", "nothing"]) == 2
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["eps", "finetune", "tables", "report"])
def test_help_says_how_the_command_was_started(name, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "prepare", lambda: None)
    with pytest.raises(SystemExit) as exit:
        commands.main([name, "--help"])
    out = capsys.readouterr().out
    assert exit.value.code == 0 and f"ofav2 {name} " in out and "python -m" not in out


def test_the_help_of_eps_lists_configs_of_supernets(capsys):
    assert eps.main(["eps", "--help"]) == 0
    out = capsys.readouterr().out
    assert all((name in out) is (name != "finetune") for name in shipped.shipped_configs())


@pytest.mark.parametrize("program", ["ofav2 eps", "python -m experiments.eps"])
def test_a_stopped_run_says_how_the_user_goes_on(program, tmp_path, monkeypatch, capsys):
    class Stopped:
        latest_checkpoint = None

        def __init__(self, *arguments):
            pass

        def execute(self):
            raise StoppedError

    monkeypatch.setattr(eps, "Run", Stopped)
    monkeypatch.setattr(eps, "_cache_programs", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    assert eps.main(["any", "--config=quickstart", f"--workdir={tmp_path}"], program) == 128 + signal.SIGTERM
    resume = f"{program} --config=quickstart --workdir={tmp_path}"
    assert capsys.readouterr().err.endswith(f"; to go on: {resume}\n")
    assert f'"{resume}"' in (tmp_path / "run.json").read_text()


# --- configs by name ----------------------------------------------------------------------------------------------


def test_every_config_has_a_name():
    names = {file.stem for file in (ROOT / "configs").glob("*.py")} - {"__init__", "authors", "common"}
    assert set(shipped.shipped_configs()) == names and "quickstart" in names


@pytest.mark.parametrize("argument", ["ee_d:smoke", "configs/ee_d.py:smoke", "./configs/ee_d.py:smoke"])
def test_shipped_config_from_another_directory(argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(argument).name == "ee_d-smoke"


def test_a_file_is_taken_for_what_it_is(elsewhere, monkeypatch):
    monkeypatch.chdir(elsewhere)
    assert load_config("ee_d").name == "ee_d"
    with pytest.raises(ValueError, match=r"config='configs/ee_d.py' fails, line 1: RuntimeError: a file of the work"):
        load_config("configs/ee_d.py")
    assert load_config("own.py").name == "own"
    shutil.copy("own.py", "ee_d")
    assert shipped.find_config("ee_d") == Path("ee_d")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("quikstart", r"config='quikstart' is not a file and not one of ee_b, .*, se_p; did you mean quickstart\?$"),
        ("configs/quikstart.py", r"config='configs/quikstart.py' is not a file; did you mean quickstart\?$"),
        ("ee_d.py", r"config='ee_d.py' is not a file; did you mean ee_d\?$"),
        ("other/ee_d.py", r"config='other/ee_d.py' is not a file; did you mean ee_d\?$"),
        # What the configs share is none.
        ("common", "config='common' is not a file and not one of ee_b,"),
        ("configs/__init__.py", "config='configs/__init__.py' is not a file$"),
    ],
)
def test_config_that_is_not_there(argument, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_config(argument)


# --- installed ----------------------------------------------------------------------------------------------------


def test_all_files_are_installed_and_nothing_else(installed):
    folders = {"ofav2_jax": "ofav2_jax", "configs": "ofav2_jax/configs", "experiments": "ofav2_jax/experiments"}
    expected = {
        Path(target, file.relative_to(ROOT / folder))
        for folder, target in folders.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {file.relative_to(installed) for file in installed.rglob("*") if file.is_file()} == expected


def test_all_folders_are_in_the_sdist():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("only git knows which files belong to the sources")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    folders = {Path(line).parts[0] for line in listed.stdout.splitlines() if "/" in line}
    grafted = {line.split()[1] for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line.startswith("graft")}
    assert {"tests", "configs", "experiments", ".ci"} <= folders <= grafted


@pytest.mark.parametrize("before", ["", "import configs; "])
def test_folders_of_the_working_directory_are_not_imported(before, ofav2, elsewhere):
    done = ofav2("eps", "--config=own.py", "--dry_run", before=before)
    assert done.returncode == 0, done.stderr
    assert "directory    runs/own" in done.stdout
    assert sorted(path.name for path in elsewhere.iterdir()) == ["configs", "experiments", "own.py"]


def test_shipped_config_of_the_installed_command(ofav2, tmp_path):
    data = ["--config.data.archive=nothing.zip", f"--config.data.data_dir={tmp_path / 'data'}"]
    done = ofav2("eps", "--config=ee_d", "--dry_run", *data)
    assert (done.returncode, done.stderr) == (2, "error: archive nothing.zip is not a file\n")
