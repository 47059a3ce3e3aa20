"""Turns matplotlib figures into SVG elements that a page can embed and that take their text colour from it."""

import dataclasses
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with colour blindness can tell apart. Each goes with its own marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
# Placeholders for the colours of text and of grid lines. `_embeddable` replaces them in the SVG by the colours of the
# page, which follow the reader's light or dark scheme.
INK, FAINT = "#010203", "#010204"
_RC: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    # A fixed salt makes the identifiers in the SVG, and so the whole file, depend on the data alone.
    "svg.hashsalt": "ofav2_jax",
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture to embed in a page.

    Attributes:
        name: identifier of the picture, unique on its page; ASCII letters, digits, "-" and "_" only. Every
            identifier inside the SVG begins with it.
        svg: an <svg> element.
        alt: a description in words, not escaped.
    """

    name: str
    svg: str
    alt: str


def picture(name: str, draw: Callable[["Figure"], None], size: tuple[float, float], alt: str) -> Picture:
    """Draws a figure and returns it as a picture.

    Args:
        name: any text that is unique on the page; `identifier` makes the picture's name from it.
        draw: draws on the figure that it is given.
        size: width and height in inches.
        alt: see `Picture`.
    """
    # Matplotlib takes a second to import. A run imports this module at its start, but draws only after a phase.
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_RC):
        figure = Figure(size, dpi=200, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    name = identifier(name)
    return Picture(name, _embeddable(buffer.getvalue(), name), alt)


def identifier(text: str) -> str:
    """Makes an identifier that is safe in attributes and in `url(#...)`; different texts give different identifiers.

    ASCII letters, digits and "-" stay; any other character becomes its code point in hexadecimal, as in "_3c_".
    """
    return re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match[0]):x}_", text)


def _embeddable(svg: str, prefix: str) -> str:
    """Makes an SVG document an element of a page: no prologue, identifiers with a prefix, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    # The style sheet of the page sets the width, and the aspect ratio then gives the height.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)").strip()
