"""The command that fine-tunes a design: what it refuses, and its plan."""

import re

import pytest

import ofav2_jax as ofa
from experiments import extract
from experiments import finetune as command
from ofav2_jax.run.finetune import finetune
from tests.helpers import supernets
from tests.helpers.refusals import refusal_of

DESIGN = ofa.Design.parse("k35753575357535753575-e34634634634634634634-d32423-l7-h2@16+1")


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of runs, and of what is none."""
    here = tmp_path_factory.mktemp("here")
    supernets.write_supernet(here / "supernet")
    supernets.write_tuned(here / "tuned", str(DESIGN))
    supernets.write_supernet(here / "early", phases=("full", "kernel"))
    supernets.write_supernet(here / "begun", ended=0)
    supernets.write_supernet(here / "single", network="se_p")
    (here / "empty").mkdir()
    (here / "file").write_text("precious")
    (here / "own.py").write_text("def get_config():\n    return 3\n")
    return here


RUN, SUBNET, WORKDIR = "--run={here}/supernet", "--subnet=k3-e3-d2-l7-h2@16", "--workdir={here}/new"
WRONG = [
    ([], "--run, --subnet"),
    ([RUN, SUBNET], "--workdir is missing"),
    ([RUN, SUBNET, WORKDIR, "--subnets=x"], "--subnets is unknown; did you mean --subnet?"),
    ([RUN, SUBNET, WORKDIR, "extra"], "argument 'extra' is not understood"),
    (["--run={here}/empty", SUBNET, WORKDIR], "is not a run directory"),
    (["--run={here}/begun", SUBNET, WORKDIR], "no phase has ended yet"),
    (["--run={here}/early", SUBNET, WORKDIR], "not finished; name the phase to start from: full"),
    (["--run={here}/early", SUBNET, WORKDIR, "--phase=kernel"], "phase='kernel' is not allowed: it has not ended"),
    ([RUN, SUBNET, WORKDIR, "--phase=fill"], "phase='fill' is not allowed: the run's are full; did you mean 'full'?"),
    (["--run={here}/tuned", SUBNET, WORKDIR], "is not the run of a supernet, but of k3573"),
    ([RUN, "--subnet=k3-e3-d2-l7-h2", WORKDIR], "write it like k7-e6-d4-l7-h4@64"),
    ([RUN, "--subnet=k9-e3-d2-l7-h2@16", WORKDIR], "kernel contains 9"),
    ([RUN, "--subnet=k3-e3-d2-l6-h2@16", WORKDIR], "ee_d has no parallel blocks"),
    ([RUN, "--subnet=k3-e3-d2-l7-h2@32", WORKDIR], "resolution=32 is not allowed: it must be one of the run's: 8, 16"),
    ([RUN, "--subnet=k3-e3-d2-l7-h2@16+3", WORKDIR], "exits=(3, 2) is not allowed"),
    (["--run={here}/single", "--subnet=k3-e3-d2-l7-h4@16", WORKDIR], "se_p has a single exit"),
    (["--run={here}/single", "--subnet=k3-e3-d2-l7-h5@16+2", WORKDIR], "se_p has exits after the stages [5]"),
    ([RUN, SUBNET, "--workdir={here}/supernet"], "is only read"),
    ([RUN, SUBNET, "--workdir={here}/supernet/tuned"], "is only read"),
    ([RUN, SUBNET, "--workdir={here}/tuned"], "belongs to a run with other settings"),
    ([RUN, SUBNET, "--workdir={here}/early"], "belongs to a run with other settings"),
    ([RUN, SUBNET, "--workdir={here}/file"], "it must be a writable directory"),
    ([RUN, SUBNET, "--workdir=gs://bucket/x"], "it must be a path of a local file system"),
    ([RUN, SUBNET, WORKDIR, "--config={here}/nothing.py"], "is not a file"),
    ([RUN, SUBNET, WORKDIR, "--config={here}/own.py"], "get_config returns 3, not a ConfigDict"),
    ([RUN, SUBNET, WORKDIR, "--config=quickstart"], "is not a field of Finetuning"),
    ([RUN, SUBNET, WORKDIR, "--config.epoch=3"], "--config.epoch is unknown; did you mean --config.epochs?"),
    ([RUN, SUBNET, WORKDIR, "--config.epochs=0"], "epochs=0 is not allowed"),
    ([RUN, SUBNET, WORKDIR, "--config.epochs=many"], "epochs='many' is not allowed: it must be an int"),
    ([RUN, SUBNET, WORKDIR, "--config.learning_rate=0"], "learning_rate=0.0 is not allowed: it must be a number > 0"),
    ([RUN, SUBNET, WORKDIR, "--config.warmup_epochs=-1"], "warmup_epochs=-1 is not allowed"),
    ([RUN, SUBNET, WORKDIR, "--config.dropout_rate=1"], "dropout_rate=1.0 is not allowed"),
    ([RUN, SUBNET, WORKDIR, "--config.kd_ratio=nan"], "kd_ratio=nan is not allowed"),
    ([RUN, SUBNET, WORKDIR, "--config.dtype=float16"], "dtype='float16' is not allowed"),
    ([RUN, SUBNET, WORKDIR, "--config.batch_size=2000"], "batch_size=2000 is not allowed: there are 1222"),
    ([RUN, SUBNET, WORKDIR, "--config.batch_size=12"], "batch_size=12 is not allowed: it must be divisible by the 8"),
    ([RUN, SUBNET, WORKDIR, "--config.checkpoint.every_s=-1"], "checkpoint.every_s=-1.0 is not allowed"),
    ([RUN, SUBNET, WORKDIR, "--num_processes=2"], "it goes with --multihost"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG)
def test_wrong_input_is_one_line(arguments, told, here, capsys):
    before = {path.name: contents(path) for path in here.iterdir() if path.is_dir()}
    line = ["finetune", *(argument.format(here=here) for argument in arguments)]
    assert told in refusal_of(command.main, line, capsys)
    assert {path.name: contents(path) for path in here.iterdir() if path.is_dir()} == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(here, capsys):
    arguments = [RUN, f"--subnet={DESIGN}", WORKDIR, "--config.dtype=bfloat16", "--dry_run"]
    assert command.main(["finetune", *(argument.format(here=here) for argument in arguments)]) == 0
    out = capsys.readouterr().out
    assert f"design       {DESIGN} (" in out and "bfloat16" in out and "left out" not in out
    assert not (here / "new").exists()


def test_extract_needs_a_design_where_there_are_many(here, capsys):
    assert extract.main([f"--run={here}/supernet", f"--out={here}/net.safetensors"]) == 2
    assert "--subnet is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(supernet="runs/x"), "supernet='runs/x' is not allowed: it must be an opened run"),
        (dict(design=str(DESIGN)), "is not allowed: it must be a Design"),
        (dict(epoch=3), "epoch is not a field of Finetuning; did you mean 'epochs'?"),
    ],
)
def test_wrong_arguments_from_python(arguments, message, here, tmp_path):
    supernet = ofa.open_run(here / "supernet")
    given = {"supernet": supernet, "design": DESIGN, "workdir": tmp_path / "new", **arguments}
    with pytest.raises(ValueError, match=re.escape(message)):
        finetune(**given)
    assert not (tmp_path / "new").exists()
