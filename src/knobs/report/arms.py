"""The arms of a study: their names, and the runs with fresh seeds that speak for each."""

import math
from collections.abc import Sequence

from knobs.report.records import RunRecord, Study, Sweep

BEST = "the best config"


def named(study: Study) -> dict[str, str]:
    """Map each arm of a study to its name."""
    arms = [arm for arm in study.arms if arm]
    return _named(arms) if len(arms) > 1 else {next(iter(arms), ""): BEST}


def _named(arms: Sequence[str]) -> dict[str, str]:
    """Map an arm to its name: optimizer=adam to adam, but model.width=64 to width=64."""
    pairs = [arm.partition("=") for arm in arms]
    if len({knob for knob, _, _ in pairs}) > 1 or not all(value for _, _, value in pairs):
        return {arm: arm for arm in arms}
    words = all(value.isidentifier() and value != "null" for _, _, value in pairs)
    names = [value if words else f"{knob.rpartition('.')[2]}={value}" for knob, _, value in pairs]
    return dict(zip(arms, names, strict=True))


def fresh(sweep: Sweep, arm: str) -> list[RunRecord]:
    """Return the runs that confirm an arm, or end its walk, however they ended: of one setting.

    A search that was extended and several studies in one report may each have confirmed another
    setting. The one that the searches found best counts, else the latest: fresh values are not to
    choose as well.
    """
    runs = [run for run in sweep.runs if run.arm == arm and run.role == "confirm"]
    if not runs:
        steps = [run for run in sweep.runs if run.arm == arm and run.role == "step"]
        last = max((run.step or 0 for run in steps), default=0)
        runs = [run for run in steps if run.step == last]
    found = {run.setting: -math.inf for run in runs}  # the latest last
    for run in runs:
        found[run.setting] = found.pop(run.setting)
    for run in sweep.explored(arm):
        if run.ok and run.setting in found:
            found[run.setting] = max(found[run.setting], sweep.objective.sign * run.value)
    best = max(reversed(found), key=found.__getitem__, default="")
    return [run for run in runs if run.setting == best]
