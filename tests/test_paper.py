"""The paper's numbers, and the settings with which a run is not comparable with them."""

import json

import pytest

from configs import quickstart
from configs.common import paper_config
from experiments.config import settings_from_config
from ofav2_jax.model.network import NETWORKS, network_spec
from ofav2_jax.report import paper


def settings_json(config):
    return json.loads(json.dumps(settings_from_config(config).as_json()))


def test_numbers_as_printed_in_the_paper():
    row = paper.paper_row("ee_d", 1.0, "progressive")
    assert row["width"] == {"avg": 44.22, "best": 51.9}
    assert row["level"] is None
    assert paper.paper_row("se_dp", 1.2, "fixed")["level"] == {"avg": 26.38, "best": 41.77}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("width_multiplier", paper.TABLES)
@pytest.mark.parametrize("teacher", paper.TEACHERS)
def test_a_row_has_exactly_the_columns_of_its_network(network, width_multiplier, teacher):
    row = paper.paper_row(network, width_multiplier, teacher)
    assert list(row) == list(paper.COLUMNS.values())
    assert {column for column, cell in row.items() if cell} == set(paper.column_phases(network))
    for cell in filter(None, row.values()):
        assert 15 < cell["avg"] < cell["best"] < 55


def test_columns_take_the_last_phase_that_widens_them():
    assert paper.column_phases("ee_p") == {
        "resolution": "full",
        "kernel": "kernel",
        "level": "level-2",
        "height": "height-4",
        "depth": "depth-2",
        "width": "width-2",
    }
    assert list(paper.column_phases("se_d")) == ["resolution", "kernel", "depth", "width"]


def test_a_width_multiplier_that_the_paper_lacks_has_no_numbers():
    assert set(paper.paper_row("ee_d", 0.5, "fixed").values()) == {None}


@pytest.mark.parametrize("network, teacher", [("ee_x", "fixed"), ("ee_d", "none")])
def test_unknown_rows_are_refused(network, teacher):
    with pytest.raises(ValueError, match=r"ee_x|none"):
        paper.paper_row(network, 1.0, teacher)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("arg", [None, "wm=1.2,teacher=fixed"])
def test_the_papers_own_settings_are_comparable(network, arg):
    assert paper.comparable(settings_json(paper_config(network, arg))) == []
    assert network in paper.ROWS and network_spec(network)


def change(name, value):
    def apply(config):
        *sections, field = name.split(".")
        for section in sections:
            config = config[section]
        config[field] = value

    return apply


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("data.num_classes", 20, "20 instead of 200 classes"),
        ("data.validation_fraction", 0.3, "validation fraction 0.3 instead of 0.15"),
        ("data.test_split", "val", "test split val"),
        (
            "data.normalisation",
            [[0.5] * 3, [0.25] * 3],
            "normalisation ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))",
        ),
        ("data.dataset", "cifar10", "data set cifar10 instead of Tiny ImageNet"),
        ("data.base_resolution", 128, "images of 128 instead of 64 pixels"),
        ("resolutions", (32, 48), "resolutions 32, 48 instead of 48, 56, 64"),
        ("batch_size", 64, "batches of 64 instead of 200 images"),
        ("width_multiplier", 0.5, "width multiplier 0.5 instead of 1.0 or 1.2"),
        ("phases.full.epochs", 18, "443 instead of 605 epochs"),
        ("phases.kernel.warmup_epochs", 0, "600 instead of 605 epochs"),
        ("phases.kernel.learning_rate", 0.1, "learning rate 0.1 instead of 0.03 in kernel"),
        ("phases.kernel.num_subnets", 4, "subnets per batch 4 instead of 1 in kernel"),
        ("recipe.kd_ratio", 0.0, "kd ratio 0 instead of 1"),
        ("data.flip", False, "augmentation flip False instead of True"),
        ("evaluation.recalibration_images", 200, "recalibration images 200 instead of 1000"),
        ("evaluation.interpolate", True, "test images are interpolated at every resolution"),
        ("engine", "static", "engine static, which does not sample the whole space"),
        ("warmup_learning_rate", 0.001, "warm-up from learning rate 0.001 instead of the phase's own"),
    ],
)
def test_each_difference_is_named(name, value, said):
    config = paper_config("se_d", None)
    change(name, value)(config)
    assert paper.comparable(settings_json(config)) == [said]


def test_epochs_moved_between_phases_are_noticed():
    config = paper_config("se_d", None)
    config.phases.full.epochs -= 10
    config.phases.kernel.epochs += 10
    assert paper.comparable(settings_json(config)) == ["the 605 epochs are spread differently"]


def test_all_classes_by_number_are_the_papers_setting():
    config = paper_config("se_d", None)
    config.data.num_classes = 200
    # The batch size of an evaluation does not change the result.
    config.evaluation.batch_size = 10
    assert paper.comparable(settings_json(config)) == []


def test_the_quickstart_is_not_comparable():
    differences = paper.comparable(settings_json(quickstart.get_config()))
    assert differences[0] == "data set digits instead of Tiny ImageNet"
    assert any("instead of 915 epochs" in text for text in differences)
