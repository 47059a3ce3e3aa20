"""The page of a run: `report.html`, self-contained, for finished runs and for those under way."""

import datetime
import html
import importlib.metadata
import json
import os
import platform
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from ofav2_jax.model.network import network_spec
from ofav2_jax.report import paper, pictures
from ofav2_jax.report.pictures import Picture
from ofav2_jax.report.records import RUN_INFO, RunRecord, read_json, read_run

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

_CSS = """
:root { color-scheme: light dark; --faint: #d4d7dc; --muted: #5b6270; --panel: #f4f5f7; --warn: #fff1d6;
        --warn-edge: #b36b00; --ink: #1b1e24; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --faint: #3a404b; --muted: #a0a8b6; --panel: #20242c; --warn: #3a2c10; --warn-edge: #e69f00;
          --ink: #e6e8ec; --page: #15181d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--page);
       font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; border-bottom: 1px solid var(--faint); padding-bottom: .2rem; }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem; }
p { margin: .4rem 0; max-width: 46rem; }
.muted, figcaption { color: var(--muted); font-size: .875rem; }
.banner { margin: 1rem 0; padding: .6rem .9rem; background: var(--warn); border-left: 4px solid var(--warn-edge); }
.banner ul { margin: .2rem 0; padding-left: 1.2rem; }
.facts { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0; }
.facts div { flex: 1 1 auto; background: var(--panel); padding: .45rem .7rem; border-radius: 6px; }
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 1.5rem; }
.small { grid-template-columns: repeat(auto-fill, minmax(min(46%, 13rem), 1fr)); gap: .5rem .75rem; }
figure { margin: 0; min-width: 0; }
svg { display: block; width: 100%; max-width: 36rem; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow: auto; }
.tall .scroll { max-height: 28rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .45rem; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; line-height: 1.2;
           position: sticky; top: 0; background: var(--page); }
summary { cursor: pointer; margin: .6rem 0; }
pre { background: var(--panel); padding: .7rem; border-radius: 6px; font-size: .8rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
"""


def write_run_info(workdir: Path, command: Sequence[str]) -> None:
    """Records in `run.json` how a run was started, or, if that is there, that it was resumed, and how.

    Args:
        workdir: the run's directory.
        command: the program and its arguments, as they can be typed again.

    Raises:
        ValueError: if there is a `run.json` that cannot be read.
    """
    devices = jax.devices()
    start = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        },
    }
    path = workdir / RUN_INFO
    if path.exists():
        first = read_json(path)
        info = {**first, "resumed": [*first.get("resumed", []), start]}
    else:
        info = start
    _write(path, json.dumps(info, indent=1) + "\n")


def write_report(workdir: Path) -> Path:
    """Rewrites the page of a run from what its directory holds.

    Args:
        workdir: the run's directory.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: if that is no run directory, or a file in it cannot be read; names it.
    """
    run = read_run(workdir)
    body = "\n".join(
        part for section in (_head, _accuracy, _phases, _curves, _choices, _circumstances) for part in section(run)
    )
    path = workdir / "report.html"
    title = html.escape(run.settings["name"])
    _write(
        path,
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
    )
    return path


def _write(path: Path, text: str) -> None:
    """Writes a file that is either the old one or the whole new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


# --- sections ---------------------------------------------------------------------------------------------------


def _head(run: RunRecord) -> Iterator[str]:
    settings = run.settings
    data = settings["data"]
    yield f"<h1>{html.escape(settings['name'])}</h1>"
    yield f'<p class="muted">{_status(run)}</p>'
    differences = paper.comparable(settings)
    if differences:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in differences)
        yield (
            '<div class="banner" role="note"><strong>Reduced run: not comparable with the paper.</strong> '
            f"Its setting differs from that of Tables IV and V:<ul>{items}</ul></div>"
        )
    facts = {
        "network": settings["network"],
        "width multiplier": settings["width_multiplier"],
        "teacher": settings["teacher"],
        "data set": data["dataset"],
        "classes": "all" if data["num_classes"] is None else data["num_classes"],
        "resolutions": ", ".join(map(str, settings["resolutions"])),
        "batch size": settings["batch_size"],
        "seed": settings["seed"],
    }
    yield _facts(facts)


def _status(run):
    finished, total = len(run.results), len(run.phases)
    if finished == total:
        return f"Finished: all {total} phases are trained and tested."
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
    columns += [pictures.CHOICES[choice] for choice in varied]
    yield '<div class="pictures">'
    yield _figure(pictures.accuracy_against_macs(subnets, colour_by), caption)
    yield f'<div class="tall"><h3>The Pareto front</h3>{_table(columns, rows)}</div>'
    yield "</div>"
    if len(run.results) > 1:
        ensemble = ", those of phase full: the ensemble of the exits" if colour_by == "height" else ""
        yield "<h3>Phase by phase</h3>"
        yield f'<p class="muted">All with the same axes; colours and markers as above{ensemble}.</p>'
        yield '<div class="pictures small">'
        yield from (_figure(picture) for picture in pictures.accuracy_by_phase(run.results, colour_by))
        yield "</div>"


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
    yield _table(columns, rows)
    if differences:
        yield (
            "<p>The paper's numbers do not stand beside these, because the run is reduced. "
            "<code>python -m experiments.tables</code> sets them side by side and marks what differs.</p>"
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
    loss, accuracy, rate = pictures.curves(run.phases, run.metrics, run.settings["warmup_learning_rate"])
    yield '<div class="pictures">'
    yield _figure(
        loss,
        "Mean over the steps of each epoch and over the subnets of each step. From the second phase on it contains "
        "the distillation loss, so that phase full stands on another scale.",
    )
    yield _figure(
        accuracy,
        "Validation: mean of the largest and the smallest unlocked subnet at every height, at the largest resolution "
        "(phase full: the network itself). Rings: the epoch whose parameters each phase hands on.",
    )
    yield _figure(rate, "Learning rate at each step, on a logarithmic axis; dotted where training has not come yet.")
    yield "</div>"


def _choices(run: RunRecord) -> Iterator[str]:
    yield "<h2>What the best subnets choose</h2>"
    name, result = list(run.results.items())[-1] if run.results else ("", {"subnets": []})
    subnets = result["subnets"]
    # A tenth of fewer is a single subnet.
    if len(subnets) < 20 or not pictures.varied_choices(subnets):
        yield "<p>Too few subnets have been tested to tell yet.</p>"
        return
    best = pictures.best_subnets(subnets)
    blocks = " Levels sum an inverted bottleneck (IB), a pointwise block (PW), a light block (L) or several of them."
    yield _figure(
        pictures.choice_shares(subnets),
        f"The most accurate tenth of the subnets tested after phase {name} ({len(best)} of {len(subnets)}, equals of "
        "the last one included). A bar that reaches past its mark: the best ones prefer this value."
        + (blocks if network_spec(run.settings["network"]).parallel else ""),
    )


def _circumstances(run: RunRecord) -> Iterator[str]:
    yield "<h2>How it was run</h2>"
    info = run.info or {}
    if info:
        starts = [info, *info.get("resumed", [])]
        yield "<h3>Commands</h3>"
        lines = [f"{start['started']}  {start['command']}" for start in starts]
        yield f"<pre>{html.escape(chr(10).join(lines))}</pre>"
        for title, key in (("Versions", "versions"), ("Machine", "machine")):
            yield f"<h3>{title}</h3>"
            yield _facts(info[key])
            for start in (start for start in starts[1:] if start[key] != info[key]):
                yield f'<p class="muted">Since it was resumed at {html.escape(start["started"])}:</p>'
                yield _facts(start[key])
    else:
        yield "<p>Command, versions and machine were not recorded: there is no <code>run.json</code>.</p>"
    if run.totals:
        yield "<h3>Time and result</h3>"
        yield _facts({f"seconds, {kind}": f"{value:,.1f}" for kind, value in run.totals["seconds"].items()})
        yield f'<p class="muted scroll">Parameters: sha256 {html.escape(run.totals["params_sha256"])}</p>'
    yield "<h3>Schedule</h3>"
    yield _table(
        ["phase", "epochs", "warm-up epochs", "learning rate", "subnets per batch", "newly allowed"],
        [
            [
                phase.name,
                str(phase.epochs),
                str(phase.warmup_epochs),
                f"{phase.learning_rate:g}",
                str(phase.num_subnets or "the maximal one"),
                f"{pictures.CHOICES[phase.unlocks]} {', '.join(map(str, phase.values))}" if phase.unlocks else "",
            ]
            for phase in run.phases
        ],
    )
    rest = {key: value for key, value in run.settings.items() if key != "phases"}
    yield "<h3>Config</h3>"
    yield f"<pre>{html.escape(chr(10).join(_leaves(rest)))}</pre>"


# --- pieces -----------------------------------------------------------------------------------------------------


def _leaves(value: Any, name: str = "") -> Iterator[str]:
    """One line for each field of nested dictionaries."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield f"{name} = {json.dumps(value)}"


def _figure(picture: Picture, caption: str = "") -> str:
    labelled = picture.svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(picture.alt)}"', 1)
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure id="{picture.name}">{labelled}{below}</figure>'


def _facts(facts: dict[str, Any]) -> str:
    items = (
        f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def _table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _millions(number: float) -> str:
    """Three significant digits."""
    return f"{number / 1e6:#.3g}".rstrip(".")
