"""The page in a real browser: every figure drawn, nothing fetched, nothing said in the console."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from browser import browser, find
from fake_sweeps import HOSTILE, add_run, fake_search, fake_study, hostile_sweep
from plotly.graph_objects import Figure

from knobs.report import page as page_module
from knobs.report.analysis import make
from knobs.report.plots import seeds
from knobs.report.plots.figures import objective_axis
from knobs.report.plots.knobs import interaction_section
from knobs.report.plots.sections import sections
from knobs.report.read import read_sweep
from knobs.report.stats import Paired
from knobs.report.write import write

TRACES = "'.cartesianlayer .trace, .cartesianlayer .hm image, .cartesianlayer .contour'"
DRAWN = f"plots.every((plot) => plot.querySelector({TRACES}))"
COLOUR = r'"\$(low|middle|high|[1-8]/?|bad|ink|muted|line|band|edge)"'
PAPER = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(252, 252, 250)", "rgb(20, 23, 26)"
ROWS = "[...document.querySelectorAll('.sortable tbody tr')]"
needs_browser = pytest.mark.skipif(find() is None, reason="no Chromium or Chrome found")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Kind -> the written page."""
    folder = tmp_path_factory.mktemp("pages")
    kinds = {"study": fake_study, "search": fake_search, "hostile": hostile_sweep}
    return {
        name: write(make([kind(folder / name)]), folder / f"{name}-out")
        for name, kind in kinds.items()
    }


@pytest.fixture(scope="module")
def tab():
    with browser(find()) as page:
        yield page


@pytest.mark.parametrize("kind", [fake_study, fake_search, hostile_sweep])
def test_every_figure_is_one_that_plotly_knows(tmp_path, kind):
    report = make([kind(tmp_path / "s")])
    made = sections(report)
    names = [section.name for section in made]
    assert {"axis", "isolation", "interaction", "curves", "tuning-curve"} <= set(names)
    assert ("ablation" in names) == ("arms" in names) == (kind is fake_study)
    for section in made:
        for figure in section.figures:
            plain = json.dumps({"data": figure.data, "layout": figure.layout}, allow_nan=False)
            plain = re.sub(COLOUR, '"#123456"', plain)
            assert '"$' not in plain
            assert len(Figure(json.loads(plain)).data) == len(figure.data)


def test_whiskers_follow_the_direction_of_the_metric():
    gain = Paired((0, 1, 2), (0.1, 0.2, 0.6), 0.3, 0.1, 0.6, 0.25)
    assert seeds._reach(gain, 1) == pytest.approx((0.2, 0.3))
    assert seeds._reach(gain, -1) == pytest.approx((0.3, 0.2))
    assert seeds._reach(None, 1) == (0.0, 0.0)


def test_the_walk_is_drawn_downwards_a_row_a_knob(tmp_path):
    report = make([fake_study(tmp_path / "s")])
    walk = next(s for s in sections(report) if s.name == "ablation")
    (figure,) = walk.figures
    bars, rows = figure.data[0], figure.layout["yaxis"]
    assert (bars["orientation"], bars["y"]) == ("h", [1, 2, 3])  # names of any length fit a phone
    assert rows["range"] == [4.6, -0.6]
    assert bars["base"][0] + sum(bars["x"]) == pytest.approx(figure.data[2]["x"][1], abs=1e-5)


def test_a_metric_that_never_changed_has_an_axis_around_it(tmp_path):
    sweep = fake_search(tmp_path / "s", n=4)
    low, high = objective_axis(read_sweep([sweep]), 0.5, 0.5)["range"]
    assert 0.4 < low < 0.5 < high < 0.6


def test_the_page_names_its_scripts_and_forbids_all_else(pages):
    page = pages["study"].read_text()
    policy = page.split('content="')[1].split('"')[0]
    for told in ("simultaneous", "one seed standard deviation of a single run"):
        assert told in page
    assert policy.startswith("default-src 'none'; ")
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == 2
    assert "http:" not in page.replace("http://www.w3.org", "")
    assert len(page) < 3_000_000


def test_what_a_record_says_is_cut_cleaned_and_no_template(tmp_path):
    sweep = fake_search(tmp_path / "s", n=4)
    about = json.loads((sweep / "study.json").read_text())
    about["question"] = "{{ 7 * 7 }}\x1b" + 5000 * "x"
    (sweep / "study.json").write_text(json.dumps(about))
    page = write(make([sweep]), tmp_path / "out").read_text()
    assert '<p class="question">{{ 7 * 7 }}\ufffd' + 3987 * "x" + "…</p>" in page
    template = Path(page_module.__file__).with_name("page.html").read_text()
    assert not re.search(r"\|\s*safe\b|Markup", template)


@needs_browser
@pytest.mark.parametrize(
    ("kind", "width", "dark"),
    [("study", 390, False), ("search", 1200, False), ("hostile", 390, True)],
)
def test_the_page_draws_fits_and_is_silent(pages, tab, kind, width, dark):
    tab.said.clear()
    tab.asked.clear()
    tab.open(pages[kind], width=width, dark=dark)
    assert tab.run("document.querySelector('h1').textContent.length") > 20
    tab.run("show(plots)")
    tab.until(DRAWN)
    assert tab.run("plots.length") >= 7
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("plots.every((p) => p.scrollWidth <= p.clientWidth + 1)")
    bars = "[...document.querySelectorAll('table.bars')]"
    assert tab.run(f"{bars}.every((t) => t.offsetWidth <= t.parentElement.clientWidth)")
    assert tab.run(PAPER) == (DARK if dark else LIGHT)
    assert [address for address in tab.asked if not address.startswith(("file:", "data:"))] == []
    assert tab.said == []


@needs_browser
@pytest.mark.parametrize("kind", ["study", "hostile"])
def test_without_scripts_all_is_there_and_fits_a_phone(pages, tab, tmp_path, kind):
    whole = pages[kind].read_text()
    path = tmp_path / "report.html"
    path.write_text(whole.replace("sha256-", "sha256-none"))  # the policy admits no script
    tab.open(path, width=390)
    assert tab.run("typeof plots") == "undefined"
    assert tab.run("document.documentElement.scrollWidth") <= 390
    drawn = "[...document.querySelectorAll('.plot')].map((p) => p.querySelectorAll('.still svg *').length)"
    assert min(tab.run(drawn)) > 10
    fits = "(e) => e.getBoundingClientRect().right <= 390 || e.tagName === 'text'"
    assert tab.run(f"[...document.querySelectorAll('.deciding *, .board *')].every({fits})")
    tab.said.clear()


@needs_browser
def test_markup_in_a_record_is_shown_as_text(pages, tab):
    tab.open(pages["hostile"])
    tab.run("show(plots)")
    tab.until(DRAWN)
    assert tab.run("document.querySelectorAll('script').length") == 4  # three and plotly's
    assert HOSTILE in tab.run("document.querySelector('.sortable').textContent")
    assert HOSTILE in tab.run("document.querySelector('#reproduce').textContent")
    assert "alert(1)" in tab.run("plots.map((p) => p.textContent).join()")
    foreign = ".plot script, .plot foreignObject, .plot iframe"
    assert tab.run(f"document.querySelectorAll('{foreign}').length") == 0


@needs_browser
def test_a_command_is_copied(pages, tab):
    tab.open(pages["study"])
    tab.run("document.querySelector('button.copy').click()")
    command = tab.run("document.querySelector('.command code').textContent")
    assert command.startswith("python")
    assert tab.run("getSelection().toString()") == command


@needs_browser
def test_an_injected_script_is_refused(pages, tab, tmp_path):
    page = pages["study"].read_text().replace("</main>", "<script>window.owned = 1</script></main>")
    (tmp_path / "report.html").write_text(page)
    tab.open(tmp_path / "report.html")
    assert tab.run("window.owned === undefined && window.plots === undefined && plots.length > 0")
    assert any("Content Security Policy" in line for line in tab.said)
    tab.said.clear()


@needs_browser
def test_the_leaderboard_unfolds_and_sorts(pages, tab):
    tab.open(pages["search"])
    visible = f"{ROWS}.filter((row) => row.offsetHeight).length"
    assert tab.run(visible) == 12
    tab.run("document.querySelector('button.all').click()")
    assert tab.run(visible) == 64
    tab.run("document.querySelectorAll('.sortable th')[3].click()")
    rates = f"{ROWS}.map((row) => +row.cells[3].textContent)"
    up = tab.run(rates)
    assert up == sorted(up)
    tab.run("document.querySelectorAll('.sortable th')[3].click()")
    assert tab.run(rates) == sorted(up, reverse=True)


@needs_browser
def test_printed_it_is_light_and_whole(pages, tab):
    tab.open(pages["study"], dark=True)
    tab.run("show(plots)")
    tab.until(DRAWN)
    assert tab.run(PAPER) == DARK
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    tab.call("Emulation.setEmulatedMedia", media="print", features=[dark])
    assert tab.run(PAPER) == LIGHT
    assert tab.run("[...document.querySelectorAll('.live')].every((p) => !p.offsetHeight)")
    assert tab.run("plots.every((p) => p.querySelector('.still svg').getBBox().height > 100)")
    assert tab.run(f"{ROWS}.every((row) => row.offsetHeight)")
    pdf = base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"])
    tab.call("Emulation.setEmulatedMedia", media="", features=[dark])
    assert pdf.startswith(b"%PDF-")


def test_a_knob_of_one_run_a_value_is_not_drawn_twice(tmp_path):
    for i in range(8):
        add_run(tmp_path / "s", {"optimizer.lr": 10.0 ** -(1 + i / 2)}, value=0.5 + i / 100)
    report = make([tmp_path / "s"])
    made = [s.name for s in sections(report)]
    assert "axis" in made
    assert "isolation" not in made


def test_options_are_smoothed_each_for_itself(tmp_path):
    for i in range(40):
        name = ("adam", "sgd")[i % 2]
        lr = 10.0 ** -(1 + i / 13)
        add_run(tmp_path / "s", {"optimizer": name, "optimizer.lr": lr}, value=0.9 - i % 2 / 2)
    sweep = read_sweep([tmp_path / "s"])
    knobs = {knob.name: knob for knob in sweep.space}
    lr, optimizer = knobs["optimizer.lr"], knobs["optimizer"]
    (figure,) = interaction_section(sweep, (lr, optimizer), sweep.runs).figures
    cells = figure.data[0]
    assert (cells["type"], cells["y"]) == ("heatmap", [0.25, 0.75])
    assert {z for z in cells["z"][0] if z is not None} == {0.9}
    assert {z for z in cells["z"][1] if z is not None} == {0.4}


def test_the_sections_say_whose_runs_they_show(tmp_path):
    report = make([fake_study(tmp_path / "s")])
    winner = report.verdict.winner.arm
    see = {s.name: s.see for s in sections(report)}
    about = {name for name, text in see.items() if text.startswith(f"The runs of {winner}. ")}
    assert about == {"axis", "isolation", "interaction", "tuning-curve"}
