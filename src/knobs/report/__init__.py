"""Records -> an answer: tables, importance, verdicts, plots, pages. `knobs.report(...)` gives it.

Imports no torch.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """Lets `knobs.report(...)` be called, beside being the package."""

    def __call__(self, *folders: str | Path) -> Any:
        """Read sweeps' folders as one sweep, and draw the conclusions; nothing is written.

        Returns:
            A knobs.report.conclusions.Report.

        Raises:
            ConfigError: there is no run in these folders.
        """
        from knobs.report.analysis import make

        return make([Path(folder) for folder in folders])


sys.modules[__name__].__class__ = _Package
