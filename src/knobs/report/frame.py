"""A page that needs nothing but itself, not even a network: frame.html around a template's blocks.

Whatever stands in it is cleaned and escaped by jinja2, and what a script reads is JSON without a
letter that could end its block. The page's policy names its scripts by their hashes and forbids
everything else: no other script runs, nothing is fetched. Every plot stands in it as SVG, which
paper and a browser without scripts show; plotly.js lies in it compressed, and draws a plot that can
be pointed at in its place when it is about to be seen.
"""

import base64
import functools
import gzip
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from knobs.report.plots.figures import Figure
from knobs.report.plots.still import key, still
from knobs.words import printable

LONGEST = 4000  # letters of a text
KEY = "showlegend"  # the legend is the page's own, which wraps on a phone


def render(template: str, figures: Sequence[Figure], **values: Any) -> str:
    """Return the whole page as text.

    Args:
        template: a file beside this one that extends frame.html.
        figures: that the template has places for, by their names.
        values: what the template shows, and functions that it calls.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # late: others do without it
    from markupsafe import Markup

    def clean(value: Any) -> str:
        """Return the template's own markup as it is, all else cut short and printable."""
        return value if isinstance(value, Markup) else printable(str(value), LONGEST)

    plain = {
        f.name: {"data": f.data, "layout": {k: v for k, v in f.layout.items() if v and k != KEY}}
        for f in figures
    }
    drawn = {f.name: (Markup(still(f, i)), _key(f)) for i, f in enumerate(figures)}
    plotly, packed = _plotly() if plain else ("", "")
    script, style = _file("page.js"), _file("page.css")
    env = Environment(
        autoescape=True, finalize=clean, undefined=StrictUndefined, trim_blocks=True,
        loader=FunctionLoader(_file),
    )  # fmt: skip
    env.globals["drawn"] = drawn.__getitem__  # macros.html has no other values
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    files = {"style": Markup(style), "script": Markup(script), "packed": Markup(packed)}
    hashes = list(map(_hash, (script, plotly)))
    return env.get_template(template).render(figures=plain, hashes=hashes, **files, **values)


def _key(figure: Figure) -> list[tuple[str, str]]:
    """Return the legend's lines: a mark as markup, and a name."""
    from markupsafe import Markup

    return [(Markup(mark), name) for mark, name in key(figure)]


def _file(name: str) -> str:
    return resources.files("knobs.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> tuple[str, str]:
    """Return plotly.js as it is, and compressed to a third, in base64."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    packed = gzip.compress(source.encode(), 9, mtime=0)
    return source, base64.b64encode(packed).decode()


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
