"""The plot that decides: its numbers, its rows on the page, its files; the two leaderboards."""

import io
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from fake_sweeps import HOSTILE, add_run, fake_search, fake_study, hostile_sweep
from rich.console import Console

from knobs.report import slide
from knobs.report.__main__ import main
from knobs.report.analysis import make
from knobs.report.markdown import markdown
from knobs.report.page import SHOWN, boards, page
from knobs.report.plots.deciding import MOST_ROWS, deciding
from knobs.report.terminal import show


class Parsed(HTMLParser):
    """A page's elements as (tag, attributes), and the text in each of some tags."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[list] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.texts.append([tag, ""])

    def handle_data(self, data):
        if self.texts:
            self.texts[-1][1] += data


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make([fake_study(tmp_path_factory.mktemp("study") / "s")])


def lanes(text):
    """The elements of each row's strip."""
    figure = text.partition('<figure class="deciding">')[2].partition("</figure>")[0]
    return [Parsed(row).elements for row in figure.split('<td class="lane">')[1:]]


def test_rows_are_the_differences_in_points(study):
    plot, verdict = deciding(study), study.verdict
    assert [row.name for row in plot.rows] == [
        verdict.winner.name,
        *(c.other.name for c in verdict.comparisons),
    ]
    for row, compared in zip(plot.rows[1:], verdict.comparisons, strict=True):
        assert row.mean == pytest.approx(100 * compared.paired.mean)
        assert (row.low, row.high) == (100 * compared.paired.low, 100 * compared.paired.high)
        assert row.dots == tuple(100 * d for d in compared.paired.differences)
        assert row.apart == (compared.relation == "beaten")
    own = sorted(plot.rows[0].dots)
    values = verdict.winner.values.values()
    assert own == pytest.approx(sorted(100 * (verdict.winner.mean - v) for v in values))
    assert sum(own) == pytest.approx(0, abs=1e-9)
    assert (plot.at(plot.low), plot.at(plot.high), plot.unit) == (0, 100, "points")


def test_the_places_on_the_page_are_the_differences(study):
    plot, wide = deciding(study), None
    wide = plot.high - plot.low

    def value(percent):
        return plot.low + wide * float(percent.removesuffix("%")) / 100

    *rows, ticks = lanes(page(study))
    for elements, row in zip(rows, plot.rows, strict=True):
        circles = [a["cx"] for tag, a in elements if tag == "circle"]
        assert list(map(value, circles)) == pytest.approx(list(row.dots), abs=wide / 9000)
        (zero,) = [a for _, a in elements if a.get("class") == "zero"]
        assert value(zero["x1"]) == pytest.approx(0, abs=wide / 9000)
        spans = [a for _, a in elements if a.get("class") == "interval"]
        assert len(spans) == (row.low is not None)
        for span in spans:
            ends = [value(span["x1"]), value(span["x2"])]
            assert ends == pytest.approx([row.low, row.high], abs=wide / 9000)
        (mean,) = [a for tag, a in elements if tag == "svg" and "x" in a]
        assert value(mean["x"]) == pytest.approx(row.mean, abs=wide / 9000)
    ats = [value(a["x"]) for tag, a in ticks if tag == "text"]
    assert ats == pytest.approx(plot.ticks, abs=wide / 9000)


def test_less_is_better_turns_the_differences(tmp_path):
    for seed, lr in itertools.product(range(5), (0.1, 0.2)):
        loss = 2.0 + lr + 0.01 * seed
        add_run(
            tmp_path / "s", {"optimizer.lr": lr}, seed, value=loss, metric="val/loss", mode="min"
        )
    plot = deciding(make([tmp_path / "s"]))
    assert [row.name for row in plot.rows] == ["lr=0.1", "lr=0.2"]
    assert plot.rows[1].mean == pytest.approx(0.1)  # the winner is better by as much
    assert sorted(plot.rows[0].dots) == pytest.approx([-0.02, -0.01, 0, 0.01, 0.02])
    assert plot.unit == ""


def test_one_poor_arm_does_not_hide_the_others(tmp_path):
    for seed, (lr, value) in itertools.product(range(5), ((1e-4, 0.1), (1e-3, 0.94), (1e-2, 0.95))):
        add_run(tmp_path / "s", {"optimizer.lr": lr}, seed, value=value + seed % 3 / 400)
    plot = deciding(make([tmp_path / "s"]))
    assert plot.beyond(plot.rows[2].mean)
    assert plot.at(plot.rows[2].mean) == 100
    assert 15 < plot.at(plot.rows[1].mean) < 90


def test_at_most_so_many_rows_and_the_page_says_how_many(tmp_path):
    for i in range(20):
        add_run(tmp_path / "s", {"optimizer.lr": 10.0 ** -(1 + i / 5)}, value=0.9 - i / 100)
    report = make([tmp_path / "s"])
    plot = deciding(report)
    assert (len(plot.rows), plot.hidden) == (1 + MOST_ROWS, 7)
    text = page(report)
    assert "12 of 19 are shown" in text
    assert "Too few pairs for an interval" in text


def test_without_a_second_setting_there_is_no_plot(tmp_path):
    add_run(tmp_path / "s", {"optimizer.lr": 0.1}, value=0.5)
    report = make([tmp_path / "s"])
    assert deciding(report) is None
    assert "deciding" not in page(report).partition("<header>")[2].partition("</header>")[0]


def test_the_answer_stands_in_order_and_the_next_command_once(study):
    doubtful = ("The default was better on one seed.", HOSTILE)
    report = replace(study, verdict=replace(study.verdict, undermines=doubtful))
    header = page(report).partition("<header>")[2].partition("</header>")[0]
    places = [
        header.index(part)
        for part in (
            "<h1>",
            'class="deciding"',
            doubtful[0],
            "<b>Next:</b>",
            'class="more"',
            "<nav",
        )
    ]
    assert places == sorted(places)
    assert HOSTILE not in header
    assert "&lt;script&gt;" in header
    command = report.advice[0].command
    assert page(report).replace("&#39;", "'").count(f"<code>{command}</code>") == 1


def test_a_winner_that_is_recommended_though_another_is_ahead_is_not_called_the_best(study):
    verdict = study.verdict
    first, *rest = verdict.comparisons
    behind = replace(first, paired=replace(first.paired, mean=-0.001), relation="level")
    changed = replace(study, verdict=replace(verdict, comparisons=(behind, *rest)))
    assert deciding(study).rows[0].conclusion == "the best mean"
    plot = deciding(changed)
    assert plot.rows[0].conclusion == "recommended"
    assert plot.rows[1].mean == pytest.approx(-0.1)
    assert plot.at(plot.rows[1].mean) < plot.at(0)


def test_doubts_are_in_markdown_and_on_the_terminal(study):
    doubtful = replace(study, verdict=replace(study.verdict, undermines=("Unequal budgets.",)))
    assert "- **Unequal budgets.**" in markdown(doubtful)
    out = io.StringIO()
    show(Console(file=out), doubtful)
    assert out.getvalue().splitlines()[2] == "Unequal budgets."


def test_sections_are_called_as_the_navigation_calls_them(study):
    for report in (study, make([study.sweep.folders[0]])):
        text = page(report)
        nav = text.partition("<nav")[2].partition("</nav>")[0]
        named = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', nav)
        titled = re.findall(r'<section id="([^"]+)"><h2>([^<]+)</h2>', text)
        assert named == titled
        assert len(named) >= 8


def test_terms_are_explained_once(study):
    text = page(study)
    for term in ("An arm is", "nuisance knobs", "interval of the mean", "total-order effect</dfn>"):
        assert text.count(term) == 1


def test_confirmed_and_explored_settings_have_a_table_each(study):
    confirmed, explored = boards(study)
    assert [e.confirmed for _, e, _, _ in confirmed["rows"]] == [True] * len(confirmed["rows"])
    assert not any(e.confirmed for _, e, _, _ in explored["rows"])
    entries = study.sweep.entries
    assert [i for i, *_ in confirmed["rows"] + explored["rows"]] == list(range(len(entries)))
    text = page(study)
    assert text.count('class="short board"') == 2
    tables = [part.partition("</table>")[0] for part in text.split('class="short board"')[1:]]
    assert [table.count("<tr class") for table in tables] == [
        len(confirmed["rows"]),
        len(explored["rows"]),
    ]
    values = [r.value for _, e, _, _ in confirmed["rows"] for r in e.runs if r.ok]
    means = [e.mean for _, e, _, _ in confirmed["rows"]]
    low, high = min([*values, *means]), max([*values, *means])
    room = 0.08 * (high - low)
    ranked = [row for row in confirmed["rows"] + explored["rows"] if row[1].mean is not None]
    for _, entry, dots, _ in ranked:
        place = 100 * (entry.mean - low + room) / (high - low + 2 * room)
        assert dots["mean"] == pytest.approx(place, abs=0.06)
        assert dots["beyond"] == ("left" if place < 0 else "right" if place > 100 else "")
    assert any(dots["beyond"] == "left" for *_, dots, _ in ranked)


def test_a_search_without_fresh_seeds_has_one_table(tmp_path):
    (board,) = boards(make([fake_search(tmp_path / "s", n=20)]))
    assert board["title"] == ""
    assert len(board["rows"]) == 20 > SHOWN


@pytest.mark.parametrize(
    ("suffix", "start"), [(".pdf", b"%PDF-"), (".png", b"\x89PNG\r\n\x1a\n"), (".svg", b"<?xml")]
)
def test_the_figure_is_a_file_of_its_kind(study, tmp_path, suffix, start, capsys):
    path = tmp_path / "new" / f"x{suffix}"
    folder = str(study.sweep.folders[0])
    assert main([folder, "--out", str(tmp_path / "out"), "--figure", str(path)]) == 0
    assert path.read_bytes().startswith(start)
    assert f"figure: {path}" in capsys.readouterr().out
    again = path.read_bytes()
    path.write_bytes(b"older")
    slide.write(study, path)
    assert path.read_bytes() == again


def test_a_figure_of_arms_that_are_not_comparable_says_so(study, tmp_path):
    """As the page does: a slide is shown without it."""
    why = "Not comparable yet: widen sgd's range of width (best at its upper bound 256)"
    assert slide.caution(study) == why
    slide.write(study, tmp_path / "x.svg")
    assert f"<!-- {why} -->" in (tmp_path / "x.svg").read_text()
    headline = study.verdict.headline.partition(". So far: ")[2]
    assert slide.caution(replace(study, verdict=replace(study.verdict, headline=headline))) == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [("x.jpg", "ends in .jpg"), ("x", "has no suffix"), ("x.pdf.gz", "ends in .gz")],
)
def test_an_unknown_suffix_is_one_line_before_any_work(tmp_path, name, said, capsys):
    assert main([str(tmp_path / "nowhere"), "--figure", name]) == 2
    error = capsys.readouterr().err
    assert error == f"--figure {name}: {said}; name a file that ends in .pdf, .png or .svg\n"


def test_a_figure_of_nothing_or_to_nowhere_is_one_line(study, tmp_path, capsys):
    add_run(tmp_path / "one", {"optimizer.lr": 0.1}, value=0.5)
    assert main([str(tmp_path / "one"), "--figure", str(tmp_path / "x.pdf")]) == 2
    assert "no second arm or setting finished" in capsys.readouterr().err
    assert not (tmp_path / "x.pdf").exists()
    (tmp_path / "x.svg").mkdir()
    with pytest.raises(
        slide.StorageError, match=r"x\.svg: cannot be written \(.+name another file"
    ):
        slide.write(study, tmp_path / "x.svg")


def test_a_figure_is_of_sweeps_not_of_a_run(study, capsys):
    assert main([str(study.sweep.runs[0].folder), "--figure", "x.pdf"]) == 2
    assert "--figure is of sweeps" in capsys.readouterr().err


def test_hostile_names_are_drawn_as_text(tmp_path):
    report = make([hostile_sweep(tmp_path / "s")])
    plot = deciding(report)
    names = [replace(row, name=rf"$\frac{{{HOSTILE}$ é 漢") for row in plot.rows]
    text = slide.drawn(replace(plot, rows=tuple(names)), ".svg").decode()
    assert "<script" not in text
