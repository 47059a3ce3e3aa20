"""The pieces of HTML that a page is made of.

Every function escapes the text it is given: names and values come from files that anybody may have written.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ofav2_jax.report.svg import Picture

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


def escaped(value: Any) -> str:
    """Writes a value as text for an element or a quoted attribute."""
    return html.escape(str(value))


def document(title: Any, body: Iterable[str]) -> str:
    """Makes a self-contained page.

    Args:
        title: any value, not escaped.
        body: the elements of the body, as HTML.
    """
    body = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def figure(picture: Picture, caption: str = "") -> str:
    """Makes a figure, whose id is the picture's name, with the caption below the picture."""
    labelled = picture.svg.replace("<svg", f'<svg role="img" aria-label="{escaped(picture.alt)}"', 1)
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f'<figure id="{escaped(picture.name)}">{labelled}{below}</figure>'


def facts(values: Mapping[str, Any]) -> str:
    """Makes a row of boxes, each with a name and a value."""
    items = (f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{"".join(items)}</dl>'


def table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Makes a table, which scrolls if it is wider than the page."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def preformatted(lines: Iterable[str]) -> str:
    """Makes a block in which every line stays a line."""
    return f"<pre>{escaped(chr(10).join(lines))}</pre>"
