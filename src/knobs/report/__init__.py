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
            A knobs.report.conclusions.Report; of one run's folder a knobs.report.run.page.RunPage.

        Raises:
            ConfigError: there is no run in these folders.
        """
        from knobs.report import analysis
        from knobs.report.run import page, read

        paths = [Path(folder) for folder in folders]
        if len(paths) == 1 and read.is_run(paths[0]):
            return page.make(paths[0])
        return analysis.make(paths)


sys.modules[__name__].__class__ = _Package
