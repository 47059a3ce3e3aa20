"""Writes the page of a run, `report.html`: self-contained, for finished runs and for those under way."""

from collections.abc import Iterator
from pathlib import Path

from ofav2_jax import files
from ofav2_jax.model.network import network_spec
from ofav2_jax.report import circumstances, html, paper, pictures, searches
from ofav2_jax.report.curves import training_curves
from ofav2_jax.report.records import RunRecord, read_run

# The number of classes whose names the page lists.
_NAMED_CLASSES = 20
# What stands below the curves of loss and accuracy.
_SUPERNET_CURVES = (
    "Mean over the steps of each epoch and over the subnets of each step. From the second phase on it contains the "
    "distillation loss, so that phase full stands on another scale.",
    "Validation: mean of the largest and the smallest unlocked subnet at every height, at the largest resolution "
    "(phase full: the network itself). Rings: the epoch whose parameters each phase hands on.",
)
_DESIGN_CURVES = (
    "Mean over the steps of each epoch, the distillation loss included.",
    "Epoch 0 is the network before fine-tuning. Ring: the best epoch so far.",
)
# A tenth of fewer subnets would be a single one, whose values say little.
_MIN_SUBNETS_FOR_SHARES = 20


def write_report(workdir: Path) -> Path:
    """Writes the page of a run from the files in its directory; an older page is replaced.

    Args:
        workdir: the run directory.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: if `workdir` is no run directory, or if a file in it cannot be read; names the file.
    """
    run = read_run(workdir)
    of_results = (_accuracy, _phases) if run.design is None else (_before_and_after,)
    of_supernet = (_choices, searches.section) if run.design is None else ()
    sections = (_head, *of_results, _curves, *of_supernet, circumstances.section)
    path = workdir / files.REPORT
    files.write_text(path, html.document(run.settings["name"], (part for section in sections for part in section(run))))
    return path


# --- sections ---------------------------------------------------------------------------------------------------


def _head(run: RunRecord) -> Iterator[str]:
    settings = run.settings
    yield f"<h1>{html.escaped(settings['name'])}</h1>"
    yield f'<p class="muted">{html.escaped(_status(run))}</p>'
    yield from _banner(run)
    facts = {
        **({} if run.design is None else {"design": run.design}),
        "network": settings["network"],
        "width multiplier": settings["width_multiplier"],
        "teacher": settings["teacher"],
        "data set": _data_set(run),
        "classes": _classes(run),
        "resolutions": ", ".join(map(str, settings["resolutions"])),
        "batch size": settings["batch_size"],
        "seed": settings["seed"],
    }
    yield html.facts(facts)


def _banner(run: RunRecord) -> Iterator[str]:
    """Says what keeps the run from being held against the paper."""
    differences = paper.comparable(run.settings)
    if not differences:
        return
    kind, from_whose = "Reduced run", "Its setting differs from that of Tables IV and V"
    if run.design is not None:
        kind = "Fine-tuned network"
    elif differences[0] == paper.AUTHORS:
        differences = differences[1:]
        kind = f"Reduced run with {paper.AUTHORS}" if differences else f"{paper.AUTHORS[0].upper()}{paper.AUTHORS[1:]}"
        from_whose = "Its setting differs from theirs"
    items = "".join(f"<li>{html.escaped(text)}</li>" for text in differences)
    told = f" {from_whose}:<ul>{items}</ul>" if items else ""
    yield (
        f'<div class="banner" role="note"><strong>{html.escaped(kind)}: not comparable with the paper.</strong>{told}'
        "</div>"
    )


def _data_set(run: RunRecord) -> str:
    name, data = run.settings["data"]["dataset"], run.data or {}
    # That of a folder is the name of the folder.
    return name if data.get("name", name) == name else f"{name}: {data['name']}"


def _classes(run: RunRecord) -> str:
    wanted, names = run.settings["data"]["num_classes"], (run.data or {}).get("class_names")
    if not names:
        return "all" if wanted is None else str(wanted)
    more = f" and {len(names) - _NAMED_CLASSES} more" if len(names) > _NAMED_CLASSES else ""
    return f"{len(names)}: {', '.join(map(str, names[:_NAMED_CLASSES]))}{more}"


def _status(run: RunRecord) -> str:
    finished, total = len(run.results), len(run.phases)
    if finished == total:
        return f"Finished: all {total} phases are trained and tested." if total > 1 else "Finished: trained and tested."
    epochs = sum(phase.total_epochs for phase in run.phases)
    return (
        f"Not finished: {finished} of {total} phases are trained and tested, "
        f"{len(run.metrics):,} of {epochs:,} epochs trained."
    )


def _accuracy(run: RunRecord) -> Iterator[str]:
    yield "<h2>Accuracy against MACs</h2>"
    if not run.results:
        yield "<p>No phase is finished yet.</p>"
        return
    name, result = list(run.results.items())[-1]
    subnets = result["subnets"]
    colour_by = "height" if network_spec(run.settings["network"]).early_exits else "depth"
    front = pictures.pareto_front(subnets)
    best = front[-1]
    caption = (
        f"The {len(subnets):,} subnets tested after phase {name}. Rings and the line are the Pareto front: no other "
        f"subnet is as accurate at as few MACs. The most accurate one reaches {best['top1']:.2f} % with "
        f"{_millions(best['macs'])} million MACs and {_millions(best['params'])} million parameters."
    )
    varied = pictures.varied_choices(subnets)
    rows = [
        [
            f"{s['top1']:.2f}",
            _millions(s["macs"]),
            _millions(s["params"]),
            *(str(s[choice]) for choice in varied),
        ]
        for s in front
    ]
    columns = ["top\N{NON-BREAKING HYPHEN}1 in %", "million MACs", "million params"]
    columns += [pictures.LABELS[choice] for choice in varied]
    yield '<div class="pictures">'
    yield html.figure(pictures.accuracy_against_macs(subnets, colour_by), caption)
    yield f'<div class="tall"><h3>The Pareto front</h3>{html.table(columns, rows)}</div>'
    yield "</div>"
    if len(run.results) > 1:
        ensemble = ", those of phase full: the ensemble of the exits" if colour_by == "height" else ""
        yield "<h3>Phase by phase</h3>"
        yield f'<p class="muted">All with the same axes; colours and markers as above{ensemble}.</p>'
        yield '<div class="pictures small">'
        yield from (html.figure(picture) for picture in pictures.accuracy_by_phase(run.results, colour_by))
        yield "</div>"


def _before_and_after(run: RunRecord) -> Iterator[str]:
    yield "<h2>Before and after</h2>"
    if not run.results:
        yield "<p>The fine-tuning is not finished yet.</p>"
        return
    (result,) = run.results.values()
    (tested,) = result["subnets"]
    yield (
        f'<p class="muted">Top-1 in % of {html.escaped(run.design)}, with {_millions(tested["macs"])} million MACs and '
        f"{_millions(tested['params'])} million parameters.</p>"
    )
    rows = []
    for split, top1 in result["top1"].items():
        before, after = top1["before"], top1["after"]
        rows.append([split, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}", f"{top1['images']:,}"])
    yield html.table(["split", "before", "after", "difference", "images"], rows)
    epoch = result["best_epoch"]
    kept = f"the parameters after epoch {epoch}" if epoch else "those before, as no epoch was better"
    yield f"<p>Kept are {kept}.</p>"


def _phases(run: RunRecord) -> Iterator[str]:
    yield "<h2>Average and best of each phase</h2>"
    settings = run.settings
    differences = paper.comparable(settings)
    cells = {}
    if not differences:
        paper_row = paper.paper_row(settings["network"], settings["width_multiplier"], settings["teacher"])
        cells = {phase: paper_row[column] for column, phase in paper.column_phases(settings["network"]).items()}
    rows = []
    for phase in run.phases:
        result, theirs = run.results.get(phase.name), cells.get(phase.name)
        row = [phase.name, f"{len(result['subnets']):,}" if result else "not yet"]
        for key in ("avg", "best"):
            row.append(f"{result[key]:.2f}" if result else "")
            if not differences:
                row.append(f"{theirs[key]:.2f}" if theirs else "")
                row.append(f"{result[key] - theirs[key]:+.2f}" if theirs and result else "")
        rows.append(row)
    columns = ["phase", "subnets tested", "avg", "best"]
    if not differences:
        columns[2:] = ["avg", "paper avg", "avg diff.", "best", "paper best", "best diff."]
    yield '<p class="muted">Test top-1 in %: mean and maximum over the tested subnets.</p>'
    yield html.table(columns, rows)
    if differences:
        reason = f"it has {paper.AUTHORS}" if differences == [paper.AUTHORS] else "it is reduced"
        yield (
            f"<p>The paper's numbers do not stand beside those of this run, because {html.escaped(reason)}. "
            "<code>ofav2 tables</code> sets them side by side and marks what differs.</p>"
        )
    else:
        table = paper.TABLES[settings["width_multiplier"]]
        yield (
            f'<p class="muted">The paper\'s numbers are those of {table}, which has one column for the last phase '
            "of each choice.</p>"
        )


def _curves(run: RunRecord) -> Iterator[str]:
    yield "<h2>Training</h2>"
    if not run.metrics:
        yield "<p>No epoch is finished yet.</p>"
        return
    loss, accuracy, rate = training_curves(run.phases, run.metrics, run.settings["warmup_learning_rate"])
    yield '<div class="pictures">'
    about_loss, about_accuracy = _SUPERNET_CURVES if run.design is None else _DESIGN_CURVES
    yield html.figure(loss, about_loss)
    yield html.figure(accuracy, about_accuracy)
    yield html.figure(
        rate, "Learning rate at each step, on a logarithmic axis; dotted where training has not come yet."
    )
    yield "</div>"


def _choices(run: RunRecord) -> Iterator[str]:
    yield "<h2>What the best subnets choose</h2>"
    name, result = list(run.results.items())[-1] if run.results else ("", {"subnets": []})
    subnets = result["subnets"]
    if len(subnets) < _MIN_SUBNETS_FOR_SHARES or not pictures.varied_choices(subnets):
        yield "<p>Too few subnets have been tested to tell yet.</p>"
        return
    best = pictures.best_subnets(subnets)
    blocks = " Levels sum an inverted bottleneck (IB), a pointwise block (PW), a light block (L) or several of them."
    yield html.figure(
        pictures.choice_shares(subnets),
        f"The most accurate tenth of the subnets tested after phase {name} ({len(best)} of {len(subnets)}, equals of "
        "the last one included). A bar that reaches past its mark: the best ones prefer this value."
        + (blocks if network_spec(run.settings["network"]).parallel else ""),
    )


# --- texts ------------------------------------------------------------------------------------------------------


def _millions(number: float) -> str:
    """Writes a number in millions, with three significant digits."""
    return f"{number / 1e6:#.3g}".rstrip(".")
