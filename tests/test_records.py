"""The records of a run's epochs: lines of `metrics.jsonl`, whole, unfinished, and foreign ones."""

import json
import re

import pytest

from ofav2_jax.report.records import EpochRecord, read_run
from tests.helpers.synthetic import write_run


def test_an_unfinished_last_line_of_metrics_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=1)
    before = read_run(run).metrics
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "pha')
    assert read_run(run).metrics == before


def test_a_record_and_its_json_are_inverse():
    record = EpochRecord(20, "kernel", 2, 1.5, 40.0, 0.03, 99.5, 50.0)
    assert EpochRecord.from_json(json.loads(json.dumps(record.as_json()))) == record
    assert EpochRecord.from_json(record.as_json() | {"unknown": None}) == record


@pytest.mark.parametrize(
    "change, said",
    [
        ({"loss": None}, "loss=None is not a number"),
        ({"loss": float("nan")}, "loss=nan is not a number"),
        ({"epoch": 1.0}, "epoch=1.0 is not an int"),
        ({"step": True}, "step=True is not an int"),
        ({"phase": 3}, "phase=3 is not a str"),
        ({"train_top1": "x"}, "train_top1='x' is not a number"),
    ],
)
def test_lines_of_metrics_that_are_no_records_are_named(tmp_path, change, said):
    run = write_run(tmp_path / "run", "ee_b", finished=1)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=re.escape(f"metrics.jsonl cannot be read: line 2: {said}")):
        read_run(run)


@pytest.mark.parametrize("line, said", [("[]", "not a JSON object"), ('{"step": 1}', "'phase' is missing")])
def test_lines_of_metrics_without_the_fields_are_named(tmp_path, line, said):
    run = write_run(tmp_path / "run", "ee_b", finished=1)
    (run / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=f"line 1: .*{said}"):
        read_run(run)
