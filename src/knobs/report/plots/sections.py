"""All plots of a report for which there are records."""

from dataclasses import replace

from knobs.report.conclusions import Report
from knobs.report.plots.arms import arms_section
from knobs.report.plots.figures import Section
from knobs.report.plots.knobs import axis_section, interaction_section, isolation_section
from knobs.report.plots.runs import curves_section, prior_section, tuning_section
from knobs.report.plots.seeds import ablation_section

MOST_KNOBS = 8  # with plots of their own


def sections(report: Report) -> list[Section]:
    """Return all plots for which there are records: of the most important knobs and their pair."""
    sweep, verdict, ranked = report.sweep, report.verdict, report.importance
    arm = verdict.winner.arm if verdict.winner else ""
    space = {knob.name: knob for knob in sweep.space_of(arm)}
    first = [knob.name for knob in ranked.knobs] if ranked else []
    order = [space[name] for name in dict.fromkeys([*first, *space]) if name in space][:MOST_KNOBS]
    runs = [run for run in sweep.explored(arm) if run.value is not None or run.broke]
    pair = next(iter(ranked.interactions), None) if ranked else None
    two = [space[name] for name in pair if name in space] if pair else order[:2]
    explored = [
        axis_section(sweep, verdict, order, runs),
        isolation_section(sweep, order, runs),
        interaction_section(sweep, two, runs),
        prior_section(sweep, runs),
        tuning_section(sweep, runs),
    ]
    within = f"The runs of {arm}. " if arm else ""
    *knobwise, enough = (s and replace(s, see=f"{within}{s.see}") for s in explored)
    confirmed = [arms_section(sweep, verdict, order), ablation_section(sweep, verdict)]
    ordered = [*confirmed, *knobwise, curves_section(sweep), enough]
    return [section for section in ordered if section and section.figures]
