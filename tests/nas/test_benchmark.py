"""The offline benchmark, on a made-up archive and on the published one where it is there."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

import ofav2_jax as ofa
from benchmarks import search
from ofav2_jax.nas.genes import Designs, Genes
from tests.helpers import searches

PUBLISHED = Path(__file__).parents[3] / "shared/data/ofa_subnets"
FIELDS = ["Sub-network", "Date", "Model Parameters", "Latency (ms)", "MACs", "Top-1 Acc (%)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ninety subnets at width multiplier 1.2, ten of them twice, in two files."""
    net = ofa.SuperNet("ofa_mbv3", 1.2, 1000, exit_widths="ofa")
    genes = Genes(net, [224])
    designs = genes.designs(genes.draw(np.random.default_rng(0), 90))
    cost, top1 = ofa.Costs(net)(designs.choices, 224), searches.top1(designs)
    rows = [
        {
            "Sub-network": {"wid": None, "ks": list(s.kernel), "e": list(s.expand), "d": list(s.depth), "r": [224]},
            "Model Parameters": int(params),
            "MACs": int(macs),
            "Top-1 Acc (%)": float(accuracy),
        }
        for s, params, macs, accuracy in zip(designs.choices.subnets(), cost.params, cost.macs, top1)
    ]
    path = tmp_path_factory.mktemp("archive")
    for name, some in (("a.csv", rows[:50]), ("b.csv", rows[50:] + [r | {"Top-1 Acc (%)": 0.0} for r in rows[:10]])):
        with (path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, restval=0)
            writer.writeheader()
            writer.writerows(some)
    return path, designs, top1


def test_read(folder):
    path, designs, top1 = folder
    archive = search.read(path)
    assert archive.net.width_multiplier == 1.2
    assert [record.trunk.subnet for record in archive.records] == [
        ofa.Design(subnet, 224).subnet for subnet in designs.choices.subnets()
    ]
    assert archive.top1 == pytest.approx(np.where(np.arange(90) < 10, top1 / 2, top1))


def test_tau_of_a_known_function(folder):
    records = [r for r in search.read(folder[0]).records if r.top1[(5,)] > 30]
    found = search.taus(search.Archive(search.read(folder[0]).net, records), (40, 5000), 30, 2)
    assert set(found) == {"40"} and {"ours", "macs"} <= set(found["40"])
    assert len(found["40"]["ours"]) == 2 and min(found["40"]["ours"]) > 0.3


def test_simulated_search(folder):
    records = [r for r in search.read(folder[0]).records if r.top1[(5,)] > 30]
    simulation = search.Simulation(search.Archive(search.read(folder[0]).net, records))
    found = search.hypervolumes(simulation, 1, (30, 45))
    assert set(found) == {"ours", "random", "uniform", "nsga2"}
    assert len(simulation.ours(0, 30)) == 30 and len(simulation.nsga2(0, 70)) == 70
    assert found["ours"]["45"][0] >= found["ours"]["30"][0] > found["random"]["30"][0] > 0
    assert found["uniform"]["30"] == found["uniform"]["45"]


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("MACs", "Macs", r"a.csv, line 2 cannot be read: the column 'MACs' is missing"),
        ("'e'", "'f'", r"a.csv, line 2 cannot be read: expand is missing"),
        ("{'wid'", "('wid'", r"a.csv, line 2 cannot be read"),
        (",0,", ",1", r"line 2 cannot be read"),
    ],
)
def test_damaged_files_are_refused(folder, tmp_path, old, new, told):
    text = (folder[0] / "a.csv").read_text(encoding="utf-8")
    (tmp_path / "a.csv").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=told) as error:
        search.read(tmp_path)
    assert "\n" not in str(error.value)


def test_another_network_is_refused(folder, tmp_path):
    text = (folder[0] / "a.csv").read_text(encoding="utf-8")
    head, first, *_ = text.splitlines()
    cells = first.split(",")
    cells[-2] = str(int(cells[-2]) + 1)
    (tmp_path / "a.csv").write_text("\n".join([head, ",".join(cells)]), encoding="utf-8")
    with pytest.raises(ValueError, match="parameters and MACs are not those of"):
        search.read(tmp_path)


def test_command_refuses_in_one_line(folder, tmp_path, monkeypatch, capsys):
    for path, told in ((tmp_path, "must be a folder with CSV files"), (folder[0], "has 90 distinct subnets")):
        monkeypatch.setattr(sys, "argv", ["search", f"--archive={path}"])
        with pytest.raises(SystemExit) as stop:
            search.main()
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and told in err and err.count("\n") == 1 and not out


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published subnets are not here: ../shared/data/ofa_subnets")
def test_predictor_of_published_accuracies():
    archive = search.read(PUBLISHED)
    assert Designs.stack([archive.records[0].trunk]).resolution.tolist() == [224]
    found = search.taus(archive, (100,), splits=3)["100"]
    assert np.mean(found["ours"]) >= 0.92 > np.mean(found["macs"]) + 0.05
