"""The section of a run's page about how it was run."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ofav2_jax.report import html, pictures
from ofav2_jax.report.records import RunRecord
from ofav2_jax.settings.phases import Phase


def section(run: RunRecord) -> Iterator[str]:
    """Commands, versions and machine, time, schedule and settings."""
    yield "<h2>How it was run</h2>"
    info = run.info or {}
    if info:
        starts = [info, *info.get("resumed", [])]
        yield "<h3>Commands</h3>"
        lines = [f"{start['started']}  {start['command']}" for start in starts]
        yield html.preformatted(lines)
        for title, key in (("Versions", "versions"), ("Machine", "machine")):
            yield f"<h3>{title}</h3>"
            yield html.facts(info[key])
            for start in (start for start in starts[1:] if start[key] != info[key]):
                yield f'<p class="muted">Since it was resumed at {html.escaped(start["started"])}:</p>'
                yield html.facts(start[key])
    else:
        yield "<p>Command, versions and machine were not recorded: there is no <code>run.json</code>.</p>"
    if run.totals:
        yield "<h3>Time and result</h3>"
        yield html.facts({f"seconds, {kind}": f"{value:,.1f}" for kind, value in run.totals["seconds"].items()})
        yield f'<p class="muted scroll">Parameters: sha256 {html.escaped(run.totals["params_sha256"])}</p>'
    yield "<h3>Schedule</h3>"
    yield _schedule(run.phases)
    rest = {key: value for key, value in run.settings.items() if key != "phases"}
    yield "<h3>Config</h3>"
    yield html.preformatted(_leaves(rest))


def _schedule(phases: Sequence[Phase]) -> str:
    columns = ["phase", "epochs", "warm-up epochs", "learning rate", "subnets per batch", "newly allowed"]
    rows = [
        [
            phase.name,
            str(phase.epochs),
            str(phase.warmup_epochs),
            f"{phase.learning_rate:g}",
            str(phase.num_subnets or ("the maximal one" if phase.is_full else "the design")),
            f"{pictures.LABELS[phase.unlocks]} {', '.join(map(str, phase.values))}" if phase.unlocks else "",
        ]
        for phase in phases
    ]
    return html.table(columns, rows)


def _leaves(value: Any, name: str = "") -> Iterator[str]:
    """Writes nested dictionaries as one line `section.field = value` for each field."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield f"{name} = {json.dumps(value)}"
