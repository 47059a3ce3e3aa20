"""Wrong configs and command lines are refused with one line and exit status 2, before any data is read."""

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from configs import quickstart
from configs.common import base_config
from experiments import eps
from experiments.config import settings_from_config
from ofav2_jax.data import tfds_source

ROOT = Path(__file__).parents[1]
QUICKSTART = "--config=configs/quickstart.py"
EE_D = "--config=configs/ee_d.py"

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


def several(coordinator, num_processes, process_index):
    """The flags of one process in a run of several processes."""
    named = {"coordinator": coordinator, "num_processes": num_processes, "process_index": process_index}
    return ["--multihost", *(f"--{name}={value}" for name, value in named.items())]


def not_allowed(field, value, allowed):
    return re.escape(f"{field}={value} is not allowed: it must be {allowed}")


POSITIVE = "a positive int"
COMMAND_LINES = [
    # --- missing and unknown flags
    ([], "--config is missing; for instance --config=configs/quickstart.py"),
    (["--dry_run"], "--config is missing"),
    (["--config.seed=1"], "--config is missing"),
    (["--confg=configs/quickstart.py"], r"--confg is unknown; did you mean --config\?"),
    (["--config"], "Missing value for flag --config"),
    ([QUICKSTART, "extra"], "argument 'extra' is not understood"),
    ([QUICKSTART, "--workdri=here"], r"--workdri is unknown; did you mean --workdir\?"),
    ([QUICKSTART, "--dryrun"], r"--dryrun is unknown; did you mean --dry_run\?"),
    ([QUICKSTART, "--num_processes=2"], "--num_processes is for runs of several processes: it goes with --multihost"),
    ([QUICKSTART, "--multihost", "--num_processes=2"], "--coordinator is missing: --coordinator, --num_processes and"),
    ([QUICKSTART, "--multihost", "--process_index=one"], not_allowed("process_index", "'one'", "an int")),
    ([QUICKSTART, *several("localhost", 2, 0)], not_allowed("coordinator", "'localhost'", "HOST:PORT")),
    ([QUICKSTART, *several("localhost:1", 0, 0)], not_allowed("num_processes", "0", "a positive int")),
    ([QUICKSTART, *several("localhost:1", 2, 2)], not_allowed("process_index", "2", "from 0 to 1")),
    ([QUICKSTART, "--multihosts"], r"--multihosts is unknown; did you mean --multihost\?"),
    ([QUICKSTART, "--dry_run=maybe"], not_allowed("dry_run", "'maybe'", "true or false")),
    ([QUICKSTART, "--seed=1"], r"--seed is unknown; did you mean --config\.seed\?"),
    # --- config files
    (["--config="], "config='' is not a file"),
    (["--config=configs"], "config='configs' is not a file"),
    (["--config=configs/nothing.py"], "config='configs/nothing.py' is not a file$"),
    (["--config=configs/quikstart.py"], r"is not a file; did you mean configs/quickstart.py\?"),
    (["--config=ofa_mbv.py"], r"is not a file; did you mean configs/ofa_mbv3.py\?"),
    (["--config=no_function.py"], "'no_function.py' is not a config file: it has no function get_config"),
    (["--config=no_config.py"], "get_config returns None, not a ConfigDict"),
    (["--config=plain_dict.py"], r"get_config returns \{'seed': 0\}, not a ConfigDict"),
    (["--config=syntax.py"], "config='syntax.py' fails: SyntaxError"),
    (["--config=name_error.py"], "config='name_error.py' fails, line 3: NameError: name 'sede' is not defined"),
    (["--config=missing_module.py"], "fails, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    (["--config=no_arguments.py:smoke"], "config='no_arguments.py' fails: TypeError: .* 1 was given"),
    (["--config=misspelt.py"], r"recipe\.momentun is not a field of the config; did you mean 'momentum'\?"),
    (["--config=misspelt_section.py"], r"evalution is not a field of the config; did you mean 'evaluation'\?"),
    (["--config=misspelt_phase.py"], r"do not belong to network='ee_d', which .*; did you mean 'depth_1'\?"),
    (["--config=lacking_field.py"], "seed is missing in the config"),
    (["--config=lacking_full.py"], "phases=kernel, .* is not allowed: ee_d .* in this order; all but full can be left"),
    (["--config=no_section.py"], "data=3 is not allowed: it must be a ConfigDict of archive, base_resolution"),
    (["--config=no_network.py"], "network is missing in the config"),
    (["--config=wrong_type.py"], "config='wrong_type.py' fails, line .*'batch_size'.* many"),
    (["--config=flip.py"], not_allowed("data.flip", 1, "True or False")),
    (["--config=one_resolution.py"], not_allowed("resolutions", 32, "a tuple")),
    (["--config=exit_weights.py"], r"exit_weights=\(1, 1, 1\) is not allowed: give 5 numbers >= 0, not all 0"),
    (["--config=infinite_exit.py"], r"exit_weights=\(1, 1, 1, 1, inf\) is not allowed: give 5 numbers"),
    (["--config=boolean.py"], not_allowed("batch_size", True, POSITIVE)),
    (["--config=number_as_name.py"], not_allowed("name", 7, "a printable str that is not empty")),
    # --- arguments of the config
    (
        [EE_D + ":width=1.2"],
        "argument 'width' is unknown; this config takes: wm, teacher, epochs, classes, settings, sandwich, smoke$",
    ),
    ([EE_D + ":teachr=fixed"], r"config argument 'teachr' is unknown; .*; did you mean 'teacher'\?"),
    ([QUICKSTART + ":smoke"], "config argument 'smoke' is unknown; this config takes: none"),
    ([EE_D + ":wm=1.1"], "wm must be one of 1.0, 1.2$"),
    ([EE_D + ":wm"], "config argument 'wm' is not allowed: wm must be one of 1.0, 1.2"),
    ([EE_D + ":wm=1.0,wm=1.2"], "config argument 'wm' is given twice"),
    ([EE_D + ":teacher=fixd"], r"teacher must be one of progressive, fixed; did you mean 'fixed'\?"),
    ([EE_D + ":epochs=0"], "epochs must be a number > 0"),
    ([EE_D + ":epochs=nan"], "epochs must be a number > 0"),
    ([EE_D + ":epochs=1e308"], "epochs must be a number > 0 and <= 1000"),
    ([EE_D + ":classes=1"], "classes must be an int of at least 2"),
    ([EE_D + ":classes=2.5"], "classes must be an int of at least 2"),
    ([EE_D + ":smoke=1"], "smoke must be without a value"),
    # --- names of fields
    ([QUICKSTART, "--config.nothing=1"], "--config.nothing is unknown$"),
    ([QUICKSTART, "--config.batch_sise=3"], r"--config\.batch_sise is unknown; did you mean --config\.batch_size\?"),
    ([QUICKSTART, "--config.dropout_rate=0"], r"did you mean --config\.recipe\.dropout_rate\?"),
    ([QUICKSTART, "--config.phases.kernal.epochs=1"], r"did you mean --config\.phases\.kernel\.epochs\?"),
    ([QUICKSTART, "--config.phases.level_1.epochs=1"], r"--config\.phases\.level_1\.epochs is unknown; did you mean"),
    ([QUICKSTART, "--config.phases.kernel={}"], r"--config\.phases\.kernel holds several fields: set one of phases"),
    ([QUICKSTART, "--config.seed.x=1"], r"--config\.seed\.x is unknown"),
    # --- types
    ([QUICKSTART, "--config.batch_size=many"], not_allowed("batch_size", "'many'", "an int")),
    ([QUICKSTART, "--config.batch_size=64.0"], not_allowed("batch_size", "'64.0'", "an int")),
    ([QUICKSTART, "--config.batch_size=True"], not_allowed("batch_size", "'True'", "an int")),
    ([QUICKSTART, "--config.batch_size="], not_allowed("batch_size", "''", "an int")),
    ([QUICKSTART, "--config.phases.full.epochs=1.5"], not_allowed("phases.full.epochs", "'1.5'", "an int")),
    ([QUICKSTART, "--config.recipe.momentum=big"], not_allowed("recipe.momentum", "'big'", "a number")),
    ([QUICKSTART, "--config.data.flip=perhaps"], not_allowed("data.flip", "'perhaps'", "true or false")),
    ([EE_D, "--config.data.num_classes=few"], not_allowed("data.num_classes", "'few'", "an int")),
    ([QUICKSTART, "--config.resolutions=(24,"], not_allowed("resolutions", "'(24,'", "a tuple, for instance (48,64)")),
    ([QUICKSTART, "--config.resolutions=('a',)"], not_allowed("resolutions", "'a'", "positive ints")),
    ([QUICKSTART, "--config.resolutions=(24.0,)"], not_allowed("resolutions", "24.0", "positive ints")),
    # --- ranges
    ([QUICKSTART, "--config.resolutions=(24,0)"], not_allowed("resolutions", 0, "positive ints")),
    ([QUICKSTART, "--config.resolutions=()"], not_allowed("resolutions", "()", "at least one positive int")),
    ([QUICKSTART, "--config.resolutions=(24,24)"], not_allowed("resolutions", "(24, 24)", "different ints")),
    ([QUICKSTART, "--config.width_multiplier=0"], not_allowed("width_multiplier", 0.0, "a number > 0")),
    ([QUICKSTART, "--config.width_multiplier=nan"], not_allowed("width_multiplier", "nan", "a number > 0")),
    ([QUICKSTART, "--config.width_multiplier=inf"], not_allowed("width_multiplier", "inf", "a number > 0")),
    ([QUICKSTART, "--config.seed=-1"], not_allowed("seed", -1, "an int >= 0 and < 4294967296")),
    ([QUICKSTART, "--config.seed=4294967296"], not_allowed("seed", 2**32, "an int >= 0 and < 4294967296")),
    ([QUICKSTART, "--config.batch_size=0"], not_allowed("batch_size", 0, POSITIVE)),
    ([QUICKSTART, "--config.warmup_learning_rate=-0.1"], not_allowed("warmup_learning_rate", -0.1, "a number >= 0")),
    ([QUICKSTART, "--config.warmup_learning_rate=inf"], not_allowed("warmup_learning_rate", "inf", "a number >= 0")),
    ([QUICKSTART, "--config.phases.kernel.epochs=0"], not_allowed("phases.kernel.epochs", 0, "an int of at least 1")),
    ([QUICKSTART, "--config.phases.width_2.warmup_epochs=-1"], "phases.width_2.warmup_epochs=-1 is not allowed"),
    ([QUICKSTART, "--config.phases.full.learning_rate=0"], "phases.full.learning_rate=0.0 is not allowed"),
    ([QUICKSTART, "--config.phases.full.learning_rate=nan"], "phases.full.learning_rate=nan is not allowed"),
    ([QUICKSTART, "--config.phases.kernel.num_subnets=0"], "phases.kernel.num_subnets=0 .* an int of at least 1"),
    ([QUICKSTART, "--config.recipe.label_smoothing=1"], "recipe.label_smoothing=1.0 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.dropout_rate=1"], "recipe.dropout_rate=1.0 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.dropout_full=-0.1"], "recipe.dropout_full=-0.1 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.momentum=1"], "recipe.momentum=1.0 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.kd_ratio=nan"], not_allowed("recipe.kd_ratio", "nan", "a number >= 0")),
    ([QUICKSTART, "--config.recipe.weight_decay=-1"], not_allowed("recipe.weight_decay", -1.0, "a number >= 0")),
    ([QUICKSTART, "--config.evaluation.batch_size=0"], not_allowed("evaluation.batch_size", 0, POSITIVE)),
    ([QUICKSTART, "--config.evaluation.subnets_per_pass=-2"], "evaluation.subnets_per_pass=-2 is not allowed"),
    ([QUICKSTART, "--config.evaluation.recalibration_images=0"], "evaluation.recalibration_images=0 is not allowed"),
    ([QUICKSTART, "--config.data.max_test_images=0"], not_allowed("data.max_test_images", 0, POSITIVE)),
    ([EE_D, "--config.data.base_resolution=0"], not_allowed("data.base_resolution", 0, POSITIVE)),
    ([EE_D, "--config.data.num_classes=1"], not_allowed("data.num_classes", 1, "an int of at least 2")),
    ([QUICKSTART, "--config.checkpoint.every_s=-1"], not_allowed("checkpoint.every_s", -1.0, "a number >= 0")),
    ([QUICKSTART, "--config.checkpoint.every_s=nan"], not_allowed("checkpoint.every_s", "nan", "a number >= 0")),
    ([QUICKSTART, "--config.checkpoint.every_s=inf"], not_allowed("checkpoint.every_s", "inf", "a number >= 0")),
    # --- choices
    ([QUICKSTART, "--config.network=ee_x"], "network='ee_x' is unknown; choose one of ofa_mbv3"),
    ([QUICKSTART, "--config.network=ofa_mbv"], r"network='ofa_mbv' is unknown; .*; did you mean 'ofa_mbv3'\?"),
    ([QUICKSTART, "--config.engine=maskd"], r"engine='maskd' .* one of masked, static; did you mean 'masked'\?"),
    ([QUICKSTART, "--config.dtype=bfloat8"], r"dtype='bfloat8' .* float32, bfloat16; did you mean 'bfloat16'\?"),
    ([QUICKSTART, "--config.teacher=none"], not_allowed("teacher", "'none'", "one of progressive, fixed") + "$"),
    (
        [QUICKSTART, "--config.recipe.exit_weights=0.5,half"],
        not_allowed("recipe.exit_weights", "'0.5,half'", "a scheme, or numbers with commas between them"),
    ),
    ([QUICKSTART, "--config.recipe.exit_weights=0.5,0.5"], r"exit_weights=\(0.5, 0.5\) is not allowed: give 5 numbers"),
    ([QUICKSTART, "--config.recipe.exit_weights=dsc"], r"exit_weights='dsc' is unknown; .*; did you mean 'desc'\?"),
    # --- contradictions
    ([QUICKSTART, "--config.network=ofa_mbv3"], "phases=.* do not belong to network='ofa_mbv3', which goes through"),
    ([QUICKSTART, "--config.phases.full.num_subnets=2"], "phases.full.num_subnets=2 is not allowed: it must be 0"),
    ([QUICKSTART, "--config.data.num_classes=5"], "data.num_classes=5 is not allowed: the digits have no such choice"),
    ([QUICKSTART, "--config.data.archive=a.zip"], "data.archive='a.zip' is not allowed: the digits have no such"),
    ([QUICKSTART, "--config.data.base_resolution=16"], not_allowed("data.base_resolution", 16, "8, the size of the")),
    ([QUICKSTART, "--config.data.test_split=dev"], "data.test_split='dev' is not allowed: the digits have no such"),
    ([QUICKSTART, "--config.data.skip_broken"], "data.skip_broken=True is not allowed: the digits have no such choice"),
    ([EE_D, "--config.data.skip_broken=perhaps"], not_allowed("data.skip_broken", "'perhaps'", "true or false")),
    (
        [EE_D, "--config.data.validation_fraction=0"],
        not_allowed("data.validation_fraction", 0.0, "a number > 0 and < 1"),
    ),
    (
        [EE_D, "--config.data.validation_fraction=1"],
        not_allowed("data.validation_fraction", 1.0, "a number > 0 and < 1"),
    ),
    ([EE_D, "--config.data.test_split="], not_allowed("data.test_split", "''", "a printable str that is not empty")),
    (
        [EE_D, "--config.data.normalisation=(1,2)"],
        r"data.normalisation=\(1, 2\) is not allowed: it must be three means",
    ),
    (
        [EE_D, "--config.data.normalisation=(123,117,104),(58,57,57)"],
        r"data.normalisation=.* must be three means in \[0, 1\] and three standard deviations in \(0, 1\]",
    ),
    ([EE_D, "--config.data.dataset=folder"], not_allowed("data.data_dir", None, "the folder of the images")),
    (
        [EE_D, "--config.data.dataset=folder", "--config.data.data_dir=x", "--config.data.archive=a.zip"],
        "data.archive='a.zip' is not allowed: it goes with data.dataset='tiny_imagenet' only, not with 'folder'",
    ),
    (
        [EE_D, "--config.data.dataset=npz:a", "--config.data.data_dir=x"],
        "data.data_dir='x' is not allowed: data.dataset=",
    ),
    ([EE_D, "--config.data.data_dir="], not_allowed("data.data_dir", "''", "a printable str that is not empty")),
    ([EE_D, "--config.data.dataset="], not_allowed("data.dataset", "''", "a printable str that is not empty")),
    ([EE_D, "--config.data.base_resolution=48"], not_allowed("resolutions", 56, "at most data.base_resolution=48")),
    ([EE_D, "--config.resolutions=(64,72)"], not_allowed("resolutions", 72, "at most data.base_resolution=64")),
    (
        [QUICKSTART, "--config.engine=static", "--config.phases.kernel.num_subnets=4"],
        not_allowed("phases.kernel.num_subnets", 4, "at most 3, the uniform subnets that are unlocked then"),
    ),
    (
        [EE_D, "--config.engine=static", "--config.phases.width_2.num_subnets=136"],
        not_allowed("phases.width_2.num_subnets", 136, "at most 135, the uniform subnets that are unlocked then"),
    ),
    # The tests run on eight devices.
    ([QUICKSTART, "--config.batch_size=63"], not_allowed("batch_size", 63, "divisible by the 8 devices")),
    (
        ["--config=configs/finetune.py"],
        "network is missing in the config, which is therefore not that of a supernet's run",
    ),
    # --- directories
    ([QUICKSTART, "--workdir="], "workdir='' is not allowed"),
    ([QUICKSTART, "--workdir=gs://bucket/run"], not_allowed("workdir", "'gs://bucket/run'", "a path of a local file")),
    ([QUICKSTART, "--workdir=S3://bucket"], not_allowed("workdir", "'S3://bucket'", "a path of a local file system")),
    (
        [EE_D, "--config.data.archive=https://x/a.zip"],
        "data.archive='https://x/a.zip' .* a path of a local file system",
    ),
    ([EE_D, "--config.data.data_dir=gs://sets"], not_allowed("data.data_dir", "'gs://sets'", "a path of a local file")),
    ([QUICKSTART, "--workdir=~nobody_of_this_name/run"], "workdir='~nobody_of_this_name/run' .* a path without '~'"),
    ([QUICKSTART, "--workdir=misspelt.py/run"], "workdir='misspelt.py/run' is not allowed: it must be a writable"),
    ([QUICKSTART, "--workdir=misspelt.py"], "workdir='misspelt.py' is not allowed: it must be a writable directory"),
    # Nobody can write there, not even root.
    ([QUICKSTART, "--workdir=/proc/run"], "workdir='/proc/run' is not allowed: it must be a writable directory"),
    ([QUICKSTART, "--config.name="], not_allowed("name", "''", "a printable str that is not empty")),
    ([QUICKSTART, "--config.name=a/b"], not_allowed("name", "'a/b'", "a directory's name")),
    ([QUICKSTART, "--config.name=.."], not_allowed("name", "'..'", "a directory's name")),
    ([QUICKSTART, "--config.name=two\nlines"], "name='two.*nlines' is not allowed: it must be a printable str"),
    ([QUICKSTART, "--workdir=other"], "workdir='other' belongs to a run with other settings: seed is 1 there and 0"),
    ([QUICKSTART, "--workdir=broken"], "workdir='broken' is not allowed: broken/settings.json is not readable"),
]


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


def reading(*args, **kwargs):
    raise AssertionError("data is read")


@pytest.mark.parametrize(
    ("arguments", "message"), COMMAND_LINES, ids=[" ".join(arguments) for arguments, _ in COMMAND_LINES]
)
def test_refused_without_the_data(arguments, message, refuse, monkeypatch):
    monkeypatch.setattr(eps, "load_dataset", reading)
    assert re.match(f".*{message}", refuse(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.dataset=imagnet"], "data set 'imagnet' is unknown to TensorFlow Datasets"),
        (["--config.data.dataset=cifar1O"], r"data set 'cifar1O' is unknown .*; did you mean 'cifar10'\?"),
        (["--config.data.dataset=digit"], r"data set 'digit' is unknown .*; did you mean 'digits'\?"),
        (
            ["--config.data.dataset=cifar10", "--config.data.archive=a.zip"],
            "data.archive='a.zip' is not allowed: it goes with",
        ),
        (["--config.data.num_classes=201"], "data.num_classes=201 is not allowed: it must be from 2 to 200"),
    ],
)
def test_refused_by_tensorflow_datasets_without_the_images(arguments, message, refuse, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source, "cached_images", reading)
    directories = [f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path / 'data'}"]
    assert re.match(f".*{message}", refuse([EE_D, *directories, *arguments]))


def test_only_the_data_say_how_large_a_batch_can_be(refuse, tmp_path):
    line = refuse([QUICKSTART, f"--workdir={tmp_path / 'new' / 'run'}", "--config.batch_size=5000"])
    assert line == "batch_size=5000 is not allowed: there are 1222 training images\n"
    assert not list(tmp_path.iterdir())


def test_read_only_file_system(refuse, tmp_path, monkeypatch):
    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(eps, "load_dataset", reading)
    line = refuse([QUICKSTART, f"--workdir={tmp_path}"])
    assert line.endswith("is not allowed: it must be a writable directory (Read-only file system)\n")


def test_a_name_with_a_separator_needs_a_workdir():
    config = quickstart.get_config()
    config.name = "digits/first"
    assert settings_from_config(config).name == "digits/first"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.evaluation.recalibration_images=50"],
        ["--config.evaluation.recalibration_batch_size=5000"],
        ["--config.batch_size=5000"],
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]])
def test_a_refused_run_claims_nothing(arguments, dry_run, refuse, tmp_path):
    refuse([QUICKSTART, f"--workdir={tmp_path / 'new' / 'run'}", *arguments, *dry_run])
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_record_how_it_goes_on_is_refused(refuse, tmp_path, monkeypatch):
    monkeypatch.setattr(eps, "load_dataset", reading)
    (tmp_path / "run.json").write_text("[]", encoding="utf-8")
    assert "run.json cannot be read: it does not hold a JSON object" in refuse([QUICKSTART, f"--workdir={tmp_path}"])
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


# What is refused first, and what is refused last before the data are read.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/quikstart.py"], "did you mean configs/quickstart.py"),
        ([QUICKSTART, "--workdir=setup.cfg/run"], "workdir='setup.cfg/run' is not allowed"),
    ],
)
def test_refused_by_a_process_of_its_own(arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.eps", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


# --- phases in a wrong order, which no config can express: it has phases by name, without order ------------------


@pytest.mark.parametrize("order", [(1, 0), (0, 2, 1), (1, 2), (0, 1, 1), ()])
def test_phases_out_of_order(order):
    settings = settings_from_config(base_config("ofa_mbv3"))
    wrong = tuple(settings.phases[index] for index in order)
    with pytest.raises(
        ValueError, match=r"phases=.* is not allowed: ofa_mbv3 goes through full, kernel, .* in this order"
    ):
        dataclasses.replace(settings, phases=wrong)


def test_phases_that_unlock_something_else():
    settings = settings_from_config(base_config("ofa_mbv3"))
    kernel = dataclasses.replace(settings.phases[1], values=(3,))
    with pytest.raises(ValueError, match="phases=full, kernel"):
        dataclasses.replace(settings, phases=(settings.phases[0], kernel, *settings.phases[2:]))
