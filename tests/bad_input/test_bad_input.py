"""Wrong configs and command lines are refused with one line and exit status 2, before any data is read."""

import errno
import os
import re
import subprocess
import sys
import tempfile

import pytest

from configs import quickstart
from experiments import eps
from experiments.config import settings_from_config
from ofav2_jax.data import tfds_source
from tests.helpers.bad_input import EE_D, QUICKSTART, ROOT, not_allowed, reading


def several(coordinator, num_processes, process_index):
    """The flags of one process in a run of several processes."""
    named = {"coordinator": coordinator, "num_processes": num_processes, "process_index": process_index}
    return ["--multihost", *(f"--{name}={value}" for name, value in named.items())]


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
