"""Plots as SVG: places are the values; curves over seeds; samples that are said."""

import math
import re
from xml.etree import ElementTree

import pytest
from fake_sweeps import add_run, fake_search, fake_study

from knobs.report.analysis import make
from knobs.report.page import page
from knobs.report.plots import figures
from knobs.report.plots.figures import Figure, look_of, round_ticks, scatter
from knobs.report.plots.runs import curves_section, over_seeds
from knobs.report.plots.sections import sections
from knobs.report.plots.still import key, still
from knobs.report.read import read_sweep
from knobs.report.records import RunRecord

LINEAR = {"title": {"text": "x"}, "range": [0, 10]}


def drawn(data, xaxis=LINEAR, yaxis=LINEAR, **layout):
    """The SVG of a figure of 300 pixels, and its plot's height."""
    figure = Figure("f", "", "", data, {"xaxis": xaxis, "yaxis": yaxis, **layout}, 300)
    svg = ElementTree.fromstring(still(figure, 3))[0]
    return svg, float(svg.get("height"))


def places(svg, name="use"):
    return [(float(e.get("x").rstrip("%")), float(e.get("y"))) for e in svg.iter(name)]


def test_points_lie_where_their_values_are():
    svg, height = drawn([scatter([0, 2.5, 10, 11], [10, 5, 0, 5])])
    shares = [(0, 0), (25, 0.5), (100, 1)]  # the last lies beyond the range
    expected = [(x, round(height * y, 1)) for x, y in shares]
    assert places(svg) == expected
    (shape,) = [e for e in svg.iter("path") if e.get("id")]
    assert {e.get("href") for e in svg.iter("use")} == {f"#{shape.get('id')}"} == {"#m3-0"}


def test_a_log_axis_is_one():
    axis = {"type": "log", "range": [0, 4]}
    svg, height = drawn([scatter([0, 10], [10, 1000])], yaxis=axis)
    assert [y / height for _, y in places(svg)] == pytest.approx([0.75, 0.25], abs=1e-3)
    labels = [e.text for e in svg.iter("text") if e.get("x") == "-8"]
    assert labels == ["1", "10", "100", "1000", "10000"]


def test_a_line_and_the_area_to_the_one_before():
    low = scatter([0, 10], [2, 2], mode="lines", line={"width": 0})
    high = scatter([0, 10], [8, 6], mode="lines", fill="tonexty", fillcolor="$1/")
    svg, height = drawn([low, high])
    paths = [e.get("d") for e in svg.iter("path")]
    ys = [round(height * (1 - y / 10), 1) for y in (2, 8, 6)]
    assert paths[0] == f"M0.0 {ys[0]:g}L1000.0 {ys[0]:g}"
    assert paths[1] == f"M0.0 {ys[1]:g}L1000.0 {ys[2]:g}L1000.0 {ys[0]:g}L0.0 {ys[0]:g}Z"


def test_bars_and_whiskers_reach_as_far_as_they_say():
    look = {"color": "$1"}
    bar = {"type": "bar", "orientation": "h", "x": [3, -1], "y": [2, 5], "base": [1, 4]}
    dots = scatter(
        [4], [5], error_x={"array": [2], "arrayminus": [1], "color": "$1", "thickness": 1}
    )
    svg, height = drawn([bar | {"marker": look}, dots])
    rects = [(e.get("x"), e.get("width")) for e in svg.iter("rect")]
    assert rects == [("10.00%", "30.00%"), ("30.00%", "10.00%")]
    whisker = [e for e in svg.iter("line") if e.get("style")]
    assert [(e.get("x1"), e.get("x2"), float(e.get("y1"))) for e in whisker] == [
        ("30.00%", "60.00%", height / 2)
    ]
    standing = {"type": "bar", "x": [1, 2], "y": [4, 8], "marker": look, "width": 0.5}
    svg, height = drawn([standing], {}, {"range": [0, 8]})
    assert [float(e.get("height")) / height for e in svg.iter("rect")] == pytest.approx([0.5, 1])


def test_a_map_has_a_cell_a_value_the_stronger_the_better():
    cells = {
        "type": "heatmap", "x": ["a", "b"], "y": ["c"], "z": [[0.0, 1.0]], "text": [["0", "1"]],
        "zmin": 0, "zmax": 1, "colorscale": [[0, "$low"], [0.5, "$middle"], [1, "$high"]],
    }  # fmt: skip
    category = {"type": "category"}
    svg, _ = drawn([cells], category, category)
    opacity = [float(e.get("style").rpartition(":")[2]) for e in svg.iter("rect")]
    assert opacity == [0.05, 0.9]
    svg, _ = drawn([cells | {"colorscale": cells["colorscale"][::-1]}], category, category)
    svg, _ = drawn(
        [cells | {"colorscale": [[0, "$high"], [0.5, "$middle"], [1, "$low"]]}], category, category
    )
    assert [float(e.get("style").rpartition(":")[2]) for e in svg.iter("rect")] == [0.9, 0.05]


def test_texts_are_escaped_and_names_are_not_shapes():
    hostile = figures.safe('"><script>alert(1)</script>')
    axis = LINEAR | {"tickvals": [5], "ticktext": [hostile], "title": {"text": hostile}}
    figure = Figure(
        "f", "", "", [scatter([1], [1], name=hostile)],
        {"xaxis": axis, "yaxis": axis, "showlegend": True},
    )  # fmt: skip
    assert "<script" not in still(figure, 0)
    assert "alert(1)" in still(figure, 0)
    assert [name for _, name in key(figure)] == ['"><script>alert(1)</script>']


def test_every_plot_of_a_report_is_drawn(tmp_path):
    for kind in (fake_study, fake_search):
        report = make([kind(tmp_path / kind.__name__)])
        every = [figure for section in sections(report) for figure in section.figures]
        text = page(report)
        assert text.count('class="still"') == len(every) >= 7
        for i, figure in enumerate(every):
            svg = ElementTree.fromstring(still(figure, i))
            marks = sum(e.tag in ("use", "path", "rect", "circle") for e in svg.iter())
            assert marks > 1, figure.name
            assert "nan" not in still(figure, i)
        ids = re.findall(r'<path d="[^"]+" id="([^"]+)"', text)
        assert len(ids) == len(set(ids)) > 5


def test_ticks_are_round():
    assert round_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert round_ticks(-0.31, 0.52) == [-0.2, 0, 0.2, 0.4]
    assert round_ticks(1e-7, 5e-7) == pytest.approx([1e-7, 2e-7, 3e-7, 4e-7, 5e-7])


def test_no_two_of_64_look_alike():
    looks = [tuple(look_of(i).values()) for i in range(64)]
    assert len(set(looks)) == 64
    assert len({color for color, _ in looks[:8]}) == len({mark for _, mark in looks[:8]}) == 8


def _run(values):
    rows = [{"epoch": i, "m": v} for i, v in enumerate(values, 1)]
    return RunRecord(None, load_curve=lambda: rows)


def test_a_curve_is_the_median_and_the_range_over_seeds():
    points = over_seeds([_run([1, 2, 3]), _run([3, 2]), _run([8, 5])], "m")
    assert points == [(1, 3, 1, 8, 3), (2, 2, 2, 5, 3), (3, 3, 3, 3, 1)]
    many = over_seeds([_run(range(1000))], "m")
    assert len(many) == figures.MOST_POINTS + 1
    assert many[-1][:2] == (1000, 999)


def test_no_seed_is_hidden_behind_the_luckiest(tmp_path):
    for seed, value in enumerate((0.5, 0.7, 0.9)):
        add_run(tmp_path / "s", {"optimizer.lr": 0.1}, seed, value=value, epochs=5)
    sweep = read_sweep([tmp_path / "s"])
    figure = curves_section(sweep).figures[0]
    least, largest, line = figure.data
    ends = sorted(run.curve[-1]["val/accuracy"] for run in sweep.runs)
    assert ends[0] < ends[1] < ends[2]
    assert [least["y"][-1], line["y"][-1], largest["y"][-1]] == pytest.approx(ends)
    assert (largest["fill"], largest["fillcolor"]) == ("tonexty", "$1/")
    assert "median over the seeds" in curves_section(sweep).see


def test_the_arms_are_drawn_over_the_learning_rate(tmp_path):
    report = make([fake_study(tmp_path / "s", n=8)])
    (section,) = [s for s in sections(report) if s.name == "arms"]
    (figure,) = section.figures
    assert section.title == "The arms over lr"
    assert [name for _, name in key(figure)] == ["adam", "nadam", "sgd"]
    lr = next(knob for knob in report.sweep.space if knob.name == "optimizer.lr")
    explored = [r for r in report.sweep.explored() if r.value is not None or r.broke]
    reach = math.log(lr.high / lr.low)
    xs = [math.log(r.config["optimizer"]["lr"] / lr.low) / reach for r in explored]
    large = [t for t in figure.data if t["marker"]["size"] == 14]
    small = [x for t in figure.data if t not in large for x in t["x"]]
    assert sorted(small) == pytest.approx(sorted(xs), abs=1e-5)
    best = [c for c in (report.verdict.winner, *(c.other for c in report.verdict.comparisons))]
    means = [c.mean for c in best if c is not report.verdict.default]
    assert sorted(t["y"][0] for t in large) == pytest.approx(sorted(means), abs=1e-6)


def test_a_sample_is_said_and_holds_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MOST_DOTS", 10)
    report = make([fake_search(tmp_path / "s", n=40)])
    made = {section.name: section for section in sections(report)}
    shown = sum(len(t["x"]) for t in made["axis"].figures[0].data)
    assert shown == 10
    assert "10 of 40 runs shown, chosen at random." in made["axis"].see
    assert "of 40 runs shown" in made["interaction"].see
    assert made["axis"].title == "Runs over each knob"
    assert [t for t in made["axis"].figures[0].data if t["name"] == "best"]
    monkeypatch.undo()
    assert "runs shown" not in page(report)
