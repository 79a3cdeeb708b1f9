"""The metric over a knob that several arms tune, one colour and one mark an arm."""

import random
from collections.abc import Sequence

from knobs.report.arms import named
from knobs.report.conclusions import Candidate, Verdict
from knobs.report.plots import figures
from knobs.report.plots.figures import Figure, Section
from knobs.report.records import Knob, RunRecord, Sweep, position


def arms_section(sweep: Sweep, verdict: Verdict, knobs: Sequence[Knob]) -> Section | None:
    """Show each arm's runs over a knob that two arms or more tune, the learning rate if it is one.

    Args:
        knobs: the most important first.
    """
    arms = [arm for arm in (sweep.study.arms if sweep.study else ()) if arm]
    if len(arms) < 2:
        return None
    tuned = [knob.name for arm in arms for knob in sweep.study.arms[arm]]
    union = {knob.name: knob for knob in sweep.space}
    names = [name for name in dict.fromkeys([*(k.name for k in knobs), *union]) if name in union]
    names = [name for name in names if tuned.count(name) > 1]
    names.sort(key=lambda name: not name.endswith(".lr"))
    runs = [r for r in sweep.explored() if r.arm in arms and (r.value is not None or r.broke)]
    if not names or all(run.value is None for run in runs):
        return None
    shown, said = figures.sampled(runs, sweep.objective.sign)
    best = [c for c in (verdict.winner, *(c.other for c in verdict.comparisons)) if c and c.arm]
    best = [c for c in best if c is not verdict.default]
    confirmed = ""
    if any(c.confirmed for c in best):
        confirmed = " A large mark is an arm's best setting, the mean over its fresh seeds."
    beyond = "below" if sweep.objective.sign > 0 else "above"
    return Section(
        "arms",
        f"The arms over {sweep.short(names[0])}",
        f"{said}One colour and one mark an arm; these are the runs of the search. Crosses diverged "
        f"or failed, open marks lie {beyond} what is shown.{confirmed}",
        (_over(sweep, union[names[0]], arms, shown, best),),
    )


def _over(
    sweep: Sweep, knob: Knob, arms: list[str], runs: list[RunRecord], best: list[Candidate]
) -> Figure:
    """Return the plot of one knob."""
    objective, column = sweep.objective, sweep.column(knob)
    values = [run.value for run in runs if run.value is not None]
    top, edge = figures.scale(sweep, [*values, *(c.mean for c in best)])
    bottom, drawn = edge - 0.08 * (top - edge), random.Random(knob.name)
    spread = 0.4 / len(knob.choices) if knob.choices is not None else 0.0
    names = named(sweep.study)
    tried, data = [], []
    for i, arm in enumerate(arms):
        look = figures.look_of(i)
        kinds: dict[str, list[tuple[float, float, str]]] = {}
        for run in (run for run in runs if run.arm == arm and run.id in column):
            tried.append(column[run.id])
            x = position(knob, column[run.id]) + spread * (drawn.random() - 0.5)
            kind = "broke" if run.broke else "run"
            kind = "beyond" if kind == "run" and objective.sign * (run.value - edge) < 0 else kind
            y = run.value if kind == "run" else bottom
            kinds.setdefault(kind, []).append((x, y, figures.told(sweep, run, [knob])))
        marks = {
            "run": look | {"size": 7, "opacity": 0.7},
            "beyond": look | {"size": 7, "symbol": f"{look['symbol']}-open"},
            "broke": look | {"size": 7, "symbol": "x"},
        }
        name = figures.safe(names[arm])
        listed = False
        for kind in (kind for kind in marks if kind in kinds):
            own = {"name": name, "showlegend": not listed, "marker": marks[kind]}
            data.append(figures.scatter(*zip(*kinds[kind], strict=True), **own))
            listed = True
    for candidate in (c for c in best if c.confirmed):
        look = figures.look_of(arms.index(candidate.arm))
        if candidate.runs[0].id not in column or objective.sign * (candidate.mean - edge) < 0:
            continue
        text = f"{candidate.name}: {objective.value(candidate.mean)}, fresh seeds"
        mark = look | {"size": 14, "line": {"width": 1.5, "color": "$ink"}}
        at = position(knob, column[candidate.runs[0].id])
        data.append(figures.scatter([at], [candidate.mean], [figures.safe(text)], marker=mark))
    layout = {
        "xaxis": figures.axis(knob, tried, knob.name),
        "yaxis": figures.objective_axis(sweep, top, edge),
        "showlegend": True,
    }
    says = f"{objective.metric} over {knob.name} of {len(arms)} arms"
    return Figure("arms", "", says, data, layout, 340)
