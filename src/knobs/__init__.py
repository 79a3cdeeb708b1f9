"""Train networks, sweep their hyperparameters, and report what matters.

    knobs.load(folder)            a run's model with its best weights; load(folder).predict(rows)
    knobs.load(sweep, top=5)      the mean of a sweep's five best runs
    knobs.sweep(*overrides)       run a grid, a search or a study; return its report
    knobs.report(*folders)        read sweeps' folders, or a run's; return what they say

`knobs.sweep` and `knobs.report` are packages as well, which can be called. None is imported before
it is asked for: the first needs torch, which the command line's help does without.
"""

import importlib
import signal
import sys
from typing import Any

__version__ = "0.2.0"

# `python -m knobs.X` is imported: Ctrl-C ends it in silence, until errors.ended hears it.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Any:
    if name == "load":
        from knobs.predict.predictor import load

        return load
    if name in ("report", "sweep"):
        return importlib.import_module(f"knobs.{name}")
    raise AttributeError(f"module 'knobs' has no attribute {name!r}")
