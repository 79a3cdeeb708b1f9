"""A plot as SVG, made without a browser: what the page shows before and without its scripts.

It reads the same plotly JSON that the page's script draws, of the traces that figures.py and its
neighbours make. Across, all places are shares of the width, so one drawing fits a phone, a desk
and paper, with letters of one size; down, they are pixels. The tree is serialized by ElementTree,
which escapes every text and attribute.
"""

import html
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from knobs.report.plots.figures import Figure, round_ticks
from knobs.words import printable

LETTER = 7  # pixels of a label's letter, about
LABEL = 21  # letters of a label at the left, for which a phone has room
WIDE = 1000  # units across of the drawing that lines lie in, stretched to the plot's width
DASHES = {"dash": "7 5", "dot": "2 3", "dashdot": "7 4 2 4", "longdash": "12 5"}

# Shapes on a square of side 2 around 0, as SVG paths.
SHAPES = {
    "square": "M-.85-.85H.85V.85H-.85Z",
    "diamond": "M0-1.15 1.15 0 0 1.15-1.15 0Z",
    "triangle-up": "M0-1.1 1.1.85H-1.1Z",
    "triangle-down": "M0 1.1 1.1-.85H-1.1Z",
    "pentagon": "M0-1.1 1.05-.34.65.9H-.65L-1.05-.34Z",
    "star": "M0-1.2.3-.4 1.15-.37.48.16.71.97 0 .5-.71.97-.48.16-1.15-.37-.3-.4Z",
    "cross": "M-.35-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "x": "M-1-.6-.6-1 0-.4.6-1 1-.6.4 0 1 .6.6 1 0 .4-.6 1-1 .6-.4 0Z",
    "line-ns": "M0-1V1",
}


class Axis:
    """A scale from values to shares of a length, 0 to 1, and its ticks.

    Args:
        about: the axis as plotly's layout has it.
        values: that lie on it, for its ends where `about` names none.
        margin: beyond the outermost values, as a share of their distance.
    """

    def __init__(self, about: dict[str, Any], values: Sequence[Any], margin: float):
        self.about, self.log = about, about.get("type") == "log"
        self.names = list(dict.fromkeys(values)) if about.get("type") == "category" else []
        if self.names:
            self.low, self.high = -0.5, len(self.names) - 0.5
            return
        numbers = list(map(self._number, values)) or [0.0, 1.0]
        low, high = min(numbers), max(numbers)
        room = margin * (high - low) or (0.0 if high > low else abs(high) or 1.0)
        self.low, self.high = about.get("range") or (low - room, high + room)
        if about.get("autorange") == "reversed":
            self.low, self.high = self.high, self.low

    def _number(self, value: Any) -> float:
        if self.names:
            return self.names.index(value)
        return math.log10(value) if self.log else value

    def at(self, value: Any) -> float:
        """Return where a value lies; below 0 or above 1 beyond the ends."""
        return (self._number(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the places and texts of the ticks within the ends."""
        if self.names:
            named = [(name, str(name)) for name in self.names]
        elif self.about.get("tickvals") is not None:
            named = list(zip(self.about["tickvals"], self.about["ticktext"], strict=True))
        else:
            percent = str(self.about.get("tickformat", "")).endswith("%")
            named = [(v, f"{v:.0%}" if percent else f"{v:g}") for v in self._round()]
        placed = [(self.at(value), text) for value, text in named]
        return [(at, html.unescape(text)) for at, text in placed if -0.001 <= at <= 1.001]

    def _round(self) -> list[float]:
        """Return round numbers within the ends."""
        low, high = sorted((self.low, self.high))
        if self.log and high - low > 0.7:
            each = (1, 2, 5) if high - low < 2.5 else (1,)
            decades = range(math.floor(low), math.ceil(high) + 1)
            return [m * 10.0**d for d in decades[:: math.ceil(len(decades) / 8)] for m in each]
        if self.log:
            low, high = 10**low, 10**high
        return round_ticks(low, high)


def still(figure: Figure, number: int) -> str:
    """Return a figure as markup: a block of the figure's height, and as wide as there is room.

    Args:
        number: of the figure on its page, for names of shapes.
    """
    data, layout = figure.data, figure.layout
    marked = any("markers" in trace.get("mode", "") for trace in data)
    across = Axis(layout["xaxis"], list(_values(data, layout, "x")), 0.05 * marked)
    up = Axis(layout["yaxis"], list(_values(data, layout, "y")), 0.06)
    labels = [printable(text, LABEL) for _, text in up.ticks()]
    named = ((axis.about.get("title") or {}).get("text", "") for axis in (across, up))
    titles = list(map(html.unescape, named))
    left = 16 + LETTER * max(map(len, labels), default=0) + 18 * bool(titles[1])
    slanted = across.about.get("tickangle") == -90
    longest = max((len(text) for _, text in across.ticks()), default=0)
    below = (12 + LETTER * longest if slanted else 24) + 20 * bool(titles[0])
    height = figure.height - 14 - below
    block = Element("div", {"class": "still", "style": f"padding:14px 12px {below}px {left}px"})
    svg = SubElement(block, "svg", {"width": "100%", "height": str(height), "aria-hidden": "true"})
    draw = _Drawing(svg, across, up, height, number)
    draw.frame(labels, titles, left, below, slanted)
    behind = [shape for shape in layout.get("shapes", ()) if shape.get("layer") == "below"]
    for shape in behind:
        draw.shape(shape)
    for i, trace in enumerate(data):
        draw.trace(i, trace)
    for shape in layout.get("shapes", ()):
        if shape not in behind:
            draw.shape(shape)
    return tostring(block, encoding="unicode")


def key(figure: Figure) -> list[tuple[str, str]]:
    """Return a legend's lines: the mark as markup, and the name."""
    if not figure.layout.get("showlegend"):
        return []
    lines = []
    for trace in figure.data:
        if not trace.get("name") or trace.get("showlegend") is False:
            continue
        svg = Element("svg", {"width": "26", "height": "12", "aria-hidden": "true"})
        look = trace.get("line") or {}
        if trace.get("fill"):
            band = {"x": "0", "y": "1", "width": "26", "height": "10"}
            SubElement(svg, "rect", band | {"style": fill(trace["fillcolor"])})
        if "lines" in trace.get("mode", "") and not trace.get("fill"):
            SubElement(svg, "path", {"d": "M0 6H26", "style": stroke(look)})
        if trace.get("type") == "bar":
            bar = {"x": "8", "y": "1", "width": "10", "height": "10"}
            SubElement(svg, "rect", bar | {"style": fill(trace["marker"]["color"])})
        elif "markers" in trace.get("mode", ""):
            about = _each(trace.get("marker") or {}, 0)
            SubElement(svg, "path", {"transform": "translate(13 6)", **shape_of(about, most=8)})
        lines.append((tostring(svg, encoding="unicode"), html.unescape(trace["name"])))
    return lines


class _Drawing:
    """An SVG with its two axes, onto which traces are drawn."""

    def __init__(self, svg: Element, across: Axis, up: Axis, height: int, number: int):
        self.svg, self.across, self.up, self.height = svg, across, up, height
        self.number = number

    def x(self, value: Any) -> str:
        return f"{100 * self.across.at(value):.2f}%"

    def y(self, value: Any) -> float:
        return round(self.height * (1 - self.up.at(value)), 1)

    def inside(self, x: Any, y: Any) -> bool:
        return all(-0.01 <= at <= 1.01 for at in (self.across.at(x), self.up.at(y)))

    def add(self, name: str, text: str = "", **attributes: Any) -> Element:
        about = {k.rstrip("_").replace("_", "-"): str(v) for k, v in attributes.items()}
        element = SubElement(self.svg, name, about)
        element.text = text or None
        return element

    def frame(
        self, labels: list[str], titles: list[str], left: int, below: int, slanted: bool
    ) -> None:
        """Draw the grid, the ticks' labels and the titles."""
        height, grid = self.height, (self.across.about, self.up.about)
        for (at, _), label in zip(self.up.ticks(), labels, strict=True):
            y = round(height * (1 - at), 1)
            if grid[1].get("showgrid", True):
                self.add("line", x1=0, x2="100%", y1=y, y2=y, class_="rail")
            self.add("text", label, x=-8, y=y + 4, text_anchor="end")
        ticks, shown = self.across.ticks(), -1.0
        for at, text in ticks:
            x = f"{100 * at:.2f}%"
            if grid[0].get("showgrid", True):
                self.add("line", x1=x, x2=x, y1=0, y2=height, class_="rail")
            if slanted:
                inner = self.add("svg", x=x, y=height + 6, overflow="visible")
                turned = {"transform": "rotate(-90)", "text-anchor": "end", "y": "4"}
                SubElement(inner, "text", turned).text = text
            elif len(ticks) < 3 or at - shown > 0.022 * (len(text) + 1):  # a phone has 45 letters
                edge = {"text_anchor": "end", "dx": 10} if at > 0.97 else {"text_anchor": "middle"}
                self.add("text", text, x=x, y=height + 18, **edge)
                shown = at
        if titles[0]:
            self.add("text", titles[0], x="50%", y=height + below - 4, text_anchor="middle")
        if titles[1]:
            turn = f"translate({14 - left} {height / 2}) rotate(-90)"
            self.add("text", titles[1], transform=turn, text_anchor="middle")

    def shape(self, shape: dict[str, Any]) -> None:
        """Draw a stripe or a line; a share of the height where it names the paper."""
        if shape["type"] == "rect":
            low, high = (max(0.0, min(1.0, self.across.at(shape[x]))) for x in ("x0", "x1"))
            place = {"x": f"{100 * low:.2f}%", "width": f"{100 * (high - low):.2f}%"}
            self.add("rect", **place, y=0, height=self.height, style=fill(shape["fillcolor"]))
            return
        x0, x1 = self.x(shape["x0"]), self.x(shape["x1"])
        self.add("line", x1=x0, x2=x1, y1=0, y2=self.height, style=stroke(shape["line"]))

    def trace(self, i: int, trace: dict[str, Any]) -> None:
        """Draw one trace of any kind."""
        if trace["type"] in ("heatmap", "contour"):
            return self._cells(trace)
        if trace["type"] == "bar":
            return self._bars(trace)
        mode = trace.get("mode", "markers")
        if "lines" in mode and len(trace["x"]) > 1:
            self._line(trace)
        if about := trace.get("error_x"):
            ends = zip(trace["x"], trace["y"], about["arrayminus"], about["array"], strict=True)
            look = stroke({"color": about["color"], "width": about["thickness"]})
            for x, y, less, more in ends:
                place = {"x1": self.x(x - less), "x2": self.x(x + more)}
                self.add("line", **place, y1=self.y(y), y2=self.y(y), style=look)
        if "markers" in mode:
            self._markers(i, trace)
        if "text" in mode:
            where = trace.get("textposition", "middle right")
            points = zip(trace["x"], trace["y"], trace["text"], strict=True)
            for n, (x, y, text) in enumerate(points):
                right = "right" in (where if isinstance(where, str) else where[n])
                place = {"dx": 10 if right else -10, "text_anchor": "start" if right else "end"}
                self.add("text", html.unescape(text), x=self.x(x), y=self.y(y) + 4, **place)

    def _line(self, trace: dict[str, Any]) -> None:
        stretched = {"viewBox": f"0 0 {WIDE} {self.height}", "preserveAspectRatio": "none"}
        inner = self.add("svg", width="100%", height=self.height, **stretched)
        points = [
            f"{WIDE * self.across.at(x):.1f} {self.y(y):g}"
            for x, y in zip(trace["x"], trace["y"], strict=True)
        ]
        if (trace.get("line") or {}).get("shape") == "hv":
            xs, ys = zip(*(point.split() for point in points), strict=True)
            path = f"M{points[0]}" + "".join(map("H{}V{}".format, xs[1:], ys[1:]))
        else:
            path = "M" + "L".join(points)
        if trace.get("fill") == "tonexty" and self.edge:
            area = path + "L" + "L".join(reversed(self.edge)) + "Z"
            SubElement(inner, "path", {"d": area, "style": fill(trace["fillcolor"])})
        self.edge = points
        SubElement(inner, "path", {"d": path, "style": stroke(trace.get("line") or {})})

    edge: Sequence[str] = ()  # of the line before, to which an area reaches

    def _markers(self, i: int, trace: dict[str, Any]) -> None:
        about = trace.get("marker") or {}
        several = any(isinstance(value, list) for value in about.values())
        points = list(zip(trace["x"], trace["y"], strict=True))
        step = max(1, len(points) // (about.get("maxdisplayed") or len(points) or 1))
        group = self.svg
        if not several:
            look = shape_of(about)
            group = self.add("g", style=look["style"])
            shape = SubElement(SubElement(self.svg, "defs"), "path", {"d": look["d"]})
            shape.set("id", name := f"m{self.number}-{i}")
        for n, (x, y) in enumerate(points):
            if not self.inside(x, y) or n % step:
                continue
            place = {"x": self.x(x), "y": f"{self.y(y):g}"}
            if several:
                inner = SubElement(group, "svg", place | {"overflow": "visible"})
                SubElement(inner, "path", shape_of(_each(about, n)))
            else:
                SubElement(group, "use", {"href": f"#{name}", **place})

    def _bars(self, trace: dict[str, Any]) -> None:
        colours, lengths = trace["marker"]["color"], trace["x" if _lying(trace) else "y"]
        for n, length in enumerate(lengths):
            look = fill(colours if isinstance(colours, str) else colours[n])
            if _lying(trace):
                base, y = trace["base"][n], trace["y"][n]
                start, end = sorted((self.across.at(base), self.across.at(base + length)))
                place = {"x": f"{100 * start:.2f}%", "width": f"{100 * (end - start):.2f}%"}
                top, bottom = sorted((self.y(y - 0.3), self.y(y + 0.3)))
            else:
                x, half = trace["x"][n], trace.get("width", 0.6) / 2
                start, end = self.across.at(x - half), self.across.at(x + half)
                place = {"x": f"{100 * start:.2f}%", "width": f"{100 * (end - start):.2f}%"}
                top, bottom = sorted((self.y(0), self.y(length)))
            self.add("rect", **place, y=top, height=round(bottom - top, 1), style=look)

    def _cells(self, trace: dict[str, Any]) -> None:
        """Draw a map; the stronger the colour, the larger the value, or as its scale is turned."""
        rows = trace["z"]
        xs, ys = _centres(trace, "x", len(rows[0])), _centres(trace, "y", len(rows))
        low, high = trace["zmin"], trace["zmax"]
        turned = trace["colorscale"][0][1] == "$high"
        texts = trace.get("text")
        columns, lines = _spans(self.across, xs), _spans(self.up, ys)
        for i, row in enumerate(rows):
            bottom, top = (round(self.height * (1 - end), 1) for end in lines[i])
            for j, value in enumerate(row):
                if value is None:
                    continue
                share = min(1.0, max(0.0, (value - low) / ((high - low) or 1)))
                strength = 0.05 + 0.85 * (1 - share if turned else share)
                place = {"x": f"{100 * columns[j][0]:.2f}%", "y": top, "height": bottom - top}
                wide = f"{100 * (columns[j][1] - columns[j][0]):.2f}%"
                look = f"fill:var(--high);fill-opacity:{strength:.2f}"
                self.add("rect", **place, width=wide, style=look, class_="cell")
                if texts and texts[i][j]:
                    x = f"{50 * sum(columns[j]):.2f}%"
                    y = (top + bottom) / 2 + 4
                    self.add("text", texts[i][j], x=x, y=y, text_anchor="middle", class_="in")


def _centres(trace: dict[str, Any], name: str, n: int) -> Sequence[Any]:
    return trace.get(name) or list(range(n))


def _spans(axis: Axis, centres: Sequence[Any]) -> list[tuple[float, float]]:
    """Return the ends of cells around their centres, half way to the next, within the axis."""
    at = [axis.at(c) for c in centres]
    between = [(a + b) / 2 for a, b in pairwise(at)]
    first, last = (2 * at[0] - between[0], 2 * at[-1] - between[-1]) if between else (0.0, 1.0)
    ends = [max(0.0, min(1.0, end)) for end in (first, *between, last)]
    return [tuple(sorted(pair)) for pair in pairwise(ends)]


def _lying(trace: dict[str, Any]) -> bool:
    return trace.get("orientation") == "h"


def _values(data: list[dict[str, Any]], layout: dict[str, Any], name: str) -> Iterator[Any]:
    """Yield what an axis must have room for."""
    for trace in data:
        values = trace.get(name)
        if trace["type"] in ("heatmap", "contour"):
            n = len(trace["z"] if name == "y" else trace["z"][0])
            values = values or [-0.5, n - 0.5]
        yield from values
        if trace["type"] == "bar" and not _lying(trace):
            half = trace.get("width", 0.8) / 2
            yield from [0.0] if name == "y" else [values[0] - half, values[-1] + half]


def _each(marker: dict[str, Any], n: int) -> dict[str, Any]:
    """Return the look of the n-th point."""
    return {k: v[n] if isinstance(v, list) else v for k, v in marker.items()}


def shape_of(marker: dict[str, Any], most: float = math.inf) -> dict[str, str]:
    """Return a marker as a path around 0: its `d` in pixels, and its style."""
    symbol, size = marker.get("symbol", "circle"), min(most, marker.get("size", 6)) / 2
    plain = symbol.removesuffix("-open")
    if plain == "circle":
        half = f"a{size:g} {size:g} 0 1 0"
        path = f"M{-size:g} 0{half} {2 * size:g} 0{half} {-2 * size:g} 0Z"
    else:
        path = _scaled(SHAPES[plain], size)
    edge = marker.get("line") or {}
    look = fill(marker.get("color", "$1"))
    if plain != symbol or symbol == "line-ns":
        look = "fill:none;" + stroke({"color": marker.get("color"), "width": 1.6})
    elif edge.get("width"):
        look += ";" + stroke(edge).removeprefix("fill:none;")
    if "opacity" in marker:
        look += f";fill-opacity:{marker['opacity']:g}"  # of each, so that many are dark together
    return {"d": path, "style": look}


def _scaled(path: str, by: float) -> str:
    """Return a path of letters and numbers with every number multiplied."""
    return re.sub(r"-?\d*\.?\d+", lambda m: f" {float(m[0]) * by:.2f}", path)


def colour(token: str) -> str:
    """Return a token as CSS: "$1" is var(--1), the page's own in light and dark."""
    return f"var(--{token[1:].rstrip('/')})" if token.startswith("$") else token


def fill(token: str) -> str:
    """Return a style that fills; a token ending in / is thin."""
    return f"fill:{colour(token)}" + ";fill-opacity:.16" * token.endswith("/")


def stroke(look: dict[str, Any]) -> str:
    """Return a style that draws a line."""
    dash = DASHES.get(look.get("dash", ""))
    style = f"fill:none;stroke:{colour(look.get('color') or '$1')}"
    dashed = f";stroke-dasharray:{dash}" if dash else ""
    return f"{style};stroke-width:{look.get('width', 2):g}{dashed}"
