"""All plots of a report for which there are records."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from knobs.report.conclusions import Verdict
from knobs.report.plots.figures import Section
from knobs.report.plots.knobs import axis_section, interaction_section, isolation_section
from knobs.report.plots.runs import curves_section, tuning_section
from knobs.report.plots.seeds import ablation_section, paired_section
from knobs.report.records import Sweep

MOST_KNOBS = 8  # with plots of their own


def sections(
    sweep: Sweep, verdict: Verdict, knobs: Sequence[str], pair: Any = None
) -> list[Section]:
    """Return all plots for which there are records.

    Args:
        knobs: the most important first.
        pair: of knobs that interact most; the first two of `knobs` if None.
    """
    arm = verdict.winner.arm if verdict.winner else ""
    space = {knob.name: knob for knob in sweep.space_of(arm)}
    order = [space[name] for name in dict.fromkeys([*knobs, *space]) if name in space][:MOST_KNOBS]
    runs = [run for run in sweep.explored(arm) if run.value is not None or run.broke]
    two = [space[name] for name in pair or [knob.name for knob in order[:2]] if name in space]
    explored = [
        axis_section(sweep, verdict, order, runs),
        isolation_section(sweep, order, runs),
        interaction_section(sweep, two, runs),
        tuning_section(sweep, runs),
    ]
    within = f"The runs of {arm}. " if arm else ""
    *knobwise, enough = (s and replace(s, see=f"{within}{s.see}") for s in explored)
    made = [
        paired_section(sweep, verdict),
        ablation_section(sweep, verdict),
        *knobwise,
        curves_section(sweep),
        enough,
    ]
    return [section for section in made if section and section.figures]
