"""The authors' settings: numbers, the subnets that they validate and test, weight decay of what is not reached."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs.common import paper_config
from experiments.arguments import read_arguments
from experiments.config import settings_from_config
from ofav2_jax import SearchSpace, Settings, SuperNet
from ofav2_jax.evaluate.protocol import phase_scores, validated_subnets, validation_top1, visited
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.model.reached import keep_unreached
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.report.page import write_report
from ofav2_jax.report.paper import comparable
from ofav2_jax.report.records import read_run
from ofav2_jax.report.tables import as_text, build_tables
from ofav2_jax.settings.authors import authors_choices, authors_settings, ends, thirds
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.phases import paper_phases, unlocked_values
from ofav2_jax.settings.recipe import Evaluation, Recipe
from tests.helpers.synthetic import write_run


def as_read(settings):
    """What `settings.json` holds."""
    return json.loads(json.dumps(settings.as_json()))


@pytest.mark.parametrize("network", NETWORKS)
def test_settings_of_the_authors(network):
    arguments = ["eps", f"--config={network}:settings=authors,teacher=fixed,wm=1.2"]
    settings = settings_from_config(read_arguments(arguments).config)
    assert (settings.batch_size, settings.resolutions, settings.dtype) == (64, (48, 52, 56, 60, 64), "float32")
    assert (settings.teacher, settings.width_multiplier) == ("fixed", 1.2)
    assert settings.recipe.decay_unreached is False and settings.evaluation.protocol == "authors"
    rates = {phase.name: phase.learning_rate for phase in settings.phases}
    table_iii = {phase.name: phase.learning_rate for phase in paper_phases(network)}
    theirs = {"full": 0.08, "height-1": 0.001875, "height-2": 0.00375, "height-3": 0.0075, "height-4": 0.015}
    assert rates == {name: theirs.get(name, rate) for name, rate in table_iii.items()}
    # The exits of a network with a single one have no weights.
    weights = (0.06, 0.13, 0.2, 0.27, 0.34) if network.startswith("ee") else "desc"
    assert settings.recipe.exit_weights == weights
    assert from_nested(Settings, json.loads(json.dumps(settings.as_json()))) == settings
    changes = {"teacher": "fixed", "width_multiplier": 1.2, "name": settings.name}
    assert settings == dataclasses.replace(authors_settings(network), **changes)
    assert comparable(as_read(settings)) == ["the authors' settings, not the paper's"]


@pytest.mark.parametrize(
    ("arg", "changes", "told"),
    [
        ("classes=20,epochs=0.1", [], ["20 instead of 200 classes", "72 instead of 755 epochs"]),
        ("", ["--config.phases.kernel.learning_rate=0.1"], ["learning rate 0.1 instead of 0.03 in kernel"]),
        ("", ["--config.resolutions=(64,)"], ["resolutions 64 instead of 48, 52, 56, 60, 64"]),
        ("", ["--config.evaluation.protocol=paper"], ["all uniform subnets are tested"]),
        ("", ["--config.dtype=bfloat16"], ["bfloat16 instead of float32"]),
        ("", ["--config.batch_size=200", "--config.recipe.kd_ratio=2"], ["batches of 200", "kd ratio 2 instead of 1"]),
        (
            "",
            [f"--config.phases.{phase}.learning_rate=1" for phase in ("full", "kernel", "depth_1")],
            ["other learning rate than the authors' in 3 of 8 phases"],
        ),
    ],
)
def test_what_was_changed_on_top_of_the_authors_settings(arg, changes, told):
    argument = f"--config=se_dp:settings=authors,{arg}".rstrip(",")
    settings = settings_from_config(read_arguments(["eps", argument, *changes]).config)
    first, *others = comparable(as_read(settings))
    assert first == "the authors' settings, not the paper's" and len(others) == len(told)
    assert all(other.startswith(text) for other, text in zip(others, told)), others


def test_one_of_their_settings_makes_no_run_theirs():
    config = read_arguments(["eps", "--config=ee_d", "--config.evaluation.protocol=authors"]).config
    told = comparable(as_read(settings_from_config(config)))
    assert told == ["only the subnets that the authors' scripts visit are tested"]


def test_the_page_and_the_tables_say_whose_settings_they_are(tmp_path):
    write_run(tmp_path / "theirs", "se_d", finished=1, arg="settings=authors")
    write_run(tmp_path / "changed", "se_d", finished=1, arg="settings=authors,classes=20")
    pages = {path.name: write_report(path).read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    theirs = "The authors&#x27; settings, not the paper&#x27;s: not comparable with the paper."
    assert f"<strong>{theirs}</strong></div>" in pages["theirs"] and "reduced" not in pages["theirs"].lower()
    assert "because it has the authors&#x27; settings, not the paper&#x27;s." in pages["theirs"]
    assert "<strong>Reduced run with the authors&#x27; settings, not the paper&#x27;s:" in pages["changed"]
    assert "differs from theirs:<ul><li>20 instead of 200 classes</li></ul>" in pages["changed"]
    text = as_text(build_tables([read_run(tmp_path / name) for name in ("theirs", "changed")]))
    assert f"{tmp_path}/theirs, seed 0, 1 of 6 phases, authors' settings [1] " in text
    assert f"{tmp_path}/changed, seed 0, 1 of 6 phases, authors' settings, reduced [2] " in text
    assert "\n[1] not comparable with the paper: the authors' settings, not the paper's\n" in text
    assert "\n[2] not comparable with the paper: the authors' settings, not the paper's; 20 instead of 200" in text


@pytest.mark.parametrize("network", NETWORKS)
def test_the_papers_settings_are_the_default(network):
    config, default = paper_config(network, "settings=paper"), paper_config(network, None)
    assert settings_from_config(config).as_json() | {"name": network} == settings_from_config(default).as_json()
    with pytest.raises(ValueError, match=r"settings must be one of paper, authors; did you mean 'authors'\?"):
        paper_config(network, "settings=author")


def test_settings_of_older_runs_have_the_defaults():
    older = json.loads(json.dumps(Settings.paper("ee_d").as_json()))
    del older["recipe"]["decay_unreached"], older["evaluation"]["protocol"]
    del older["evaluation"]["interpolate"]
    assert from_nested(Settings, older) == Settings.paper("ee_d") and comparable(older) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": Recipe(decay_unreached=1)}, "recipe.decay_unreached=1 is not allowed: it must be True or False"),
        (
            {"evaluation": Evaluation(interpolate=1)},
            "evaluation.interpolate=1 is not allowed: it must be True or False",
        ),
        ({"evaluation": Evaluation(protocol="author")}, r"evaluation.protocol='author' .* did you mean 'authors'\?"),
    ],
)
def test_other_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings.paper("ee_d", **changes)


# --- which subnets are validated and tested -----------------------------------------------------------------------


def theirs_of(network):
    return settings_from_config(paper_config(network, "settings=authors"))


def space_of(settings, index):
    whole = SearchSpace(SuperNet(settings.network))
    return whole.restrict(**unlocked_values(settings.phases, index))


def index_of(settings, name):
    return [phase.name for phase in settings.phases].index(name)


def test_their_test_visits_all_values_of_the_current_choice_and_the_ends_of_the_others():
    settings = theirs_of("ee_dp")
    phases = settings.phases
    of_kernel = authors_choices(unlocked_values(phases, 1), "kernel")
    assert of_kernel == {"kernel": (7, 5, 3), "expand": (6,), "depth": (4,), "level": (7,), "height": (5,)}
    index = index_of(settings, "height-3")
    of_height = authors_choices(unlocked_values(phases, index), "height")
    # Level codes of three blocks and of one.
    assert of_height == {"kernel": (7, 3), "expand": (6,), "depth": (4,), "level": (7, 4, 2, 1), "height": (5, 4, 3, 2)}
    of_width = authors_choices(unlocked_values(phases, len(phases) - 1), "expand")
    assert (of_width["expand"], of_width["depth"], of_width["height"]) == ((6, 4, 3), (4, 2), (5, 1))
    assert ends((48, 52, 56, 60, 64)) == (48, 64) and ends((64,)) == (64,)
    assert thirds((64, 56, 48)) == thirds((48, 52, 56, 60, 64)) == (48, 56, 64) and thirds((32,)) == (32,)


@pytest.mark.parametrize(
    ("network", "phase", "count"),
    [
        *(("ee_d", "full", 2), ("ee_d", "kernel", 6), ("ee_d", "height-4", 20), ("ee_d", "depth-2", 24)),
        *(("ee_d", "width-2", 48), ("se_dp", "level-2", 28), ("ofa_mbv3", "width-2", 24)),
    ],
)
def test_the_number_of_their_tested_subnets(network, phase, count):
    settings = theirs_of(network)
    index = index_of(settings, phase)
    some, resolutions = visited(settings, index, space_of(settings, index))
    assert resolutions == (48, 64)
    assert len(resolutions) * (1 if phase == "full" else some.num_uniform) == count


def test_with_the_papers_protocol_every_uniform_subnet_is_tested():
    settings = Settings.paper("ee_d")
    space = space_of(settings, len(settings.phases) - 1)
    assert visited(settings, len(settings.phases) - 1, space) == (space, (48, 56, 64))


def test_validated_subnets_of_the_paper_are_the_ends_at_every_height():
    settings = Settings.paper("ee_d")
    index = index_of(settings, "depth-1")
    chosen = validated_subnets(settings, index, 0, space_of(settings, index))
    assert len(chosen) == len(set(chosen)) == 10 and {resolution for resolution, _ in chosen} == {64}
    assert {(s.kernel[0], s.depth[0]) for _, s in chosen} == {(7, 4), (3, 3)}
    assert validated_subnets(settings, 0, 0, space_of(settings, 0)) == [(64, space_of(settings, 0).maximal())]


def test_validated_subnets_of_the_authors():
    settings = theirs_of("ee_dp")
    assert [resolution for resolution, _ in validated_subnets(settings, 0, 3, space_of(settings, 0))] == [48, 56, 64]
    of_kernel = validated_subnets(settings, 1, 0, space_of(settings, 1))
    assert {(resolution, s.kernel[0]) for resolution, s in of_kernel} == {(r, k) for r in (48, 64) for k in (7, 5, 3)}
    # 2 resolutions, 2 kernels, 4 level codes, 2 heights.
    index = index_of(settings, "height-4")
    of_height = validated_subnets(settings, index, 0, space_of(settings, index))
    assert len(of_height) == 32 and {s.height for _, s in of_height} == {5, 1}
    # Twice and four times as many: others in each epoch, the same ones whenever the epoch is validated.
    index = index_of(settings, "width-2")
    space = space_of(settings, index)
    epochs = [validated_subnets(settings, index, epoch, space) for epoch in (0, 1, 0)]
    assert all(len(set(chosen)) == 32 for chosen in epochs)
    assert epochs[0] == epochs[2] != epochs[1]


class Told:
    """An evaluator that tells what it is asked for; a subnet's top-1 is its resolution."""

    def __init__(self):
        self.asked = []

    def score(self, params, subnets, resolution, split, ensemble=False):
        self.asked.append((resolution, len(list(subnets)), split, ensemble))
        return [Top1(resolution) for _ in subnets]


@dataclasses.dataclass
class Top1:
    top1: float


def test_each_resolution_is_evaluated_once():
    settings, evaluator = theirs_of("ee_d"), Told()
    index = index_of(settings, "height-4")
    assert validation_top1(evaluator, None, settings, 0, 0, space_of(settings, 0)) == 56
    assert validation_top1(evaluator, None, settings, index, 0, space_of(settings, index)) == 56
    phase_scores(evaluator, None, settings, index, space_of(settings, index))
    assert evaluator.asked == [
        *((resolution, 1, "validation", True) for resolution in (48, 56, 64)),
        *((resolution, 4, "validation", False) for resolution in (48, 64)),
        *((resolution, 10, "test", False) for resolution in (48, 64)),
    ]


# --- weight decay of what a phase does not reach ------------------------------------------------------------------


def moved(params, start):
    """The names of the parameters that differ between two trees."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(start))
    return {"/".join(e.key for e in path) for (path, new), old in pairs if not np.array_equal(new, old)}


def test_what_a_phase_does_not_reach():
    net = SuperNet("ee_b", 0.1, 10)
    start = jax.tree.map(lambda s: np.zeros(s.shape), variable_shapes(net)["params"])
    after = jax.tree.map(lambda v: v + 1, start)
    everything = moved(after, start)
    phases, whole = paper_phases("ee_b"), SearchSpace(net)

    def kept(index):
        space = whole.restrict(**unlocked_values(phases, index))
        return everything - moved(keep_unreached(after, start, space, all_exits=phases[index].is_full), start)

    matrices = {name for name in everything if "matrix" in name}
    assert len({name.rsplit("/", 1)[1] for name in matrices}) == 2
    assert kept(0) == matrices
    heads = {height: {name for name in everything if name.startswith(f"exit_{height}/")} for height in range(1, 6)}
    assert all(heads.values())
    assert kept(1) == heads[1] | heads[2] | heads[3] | heads[4]
    assert kept(3) == heads[1] | heads[2]
    assert kept(5) == kept(9) == set()
