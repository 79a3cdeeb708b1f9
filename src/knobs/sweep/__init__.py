"""Many runs: planned, trained together, searched and confirmed. `knobs.sweep(...)` runs them."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from knobs.errors import SWEEP_FAILED, ConfigError, UserError

TRAIN = Path(__file__).parents[3] / "train.py"


def run(*overrides: str, folder: str | Path) -> Any:
    """Run a sweep in a process of its own, as `python train.py -m ...` does; return its report.

    Args:
        overrides: as on the command line: `"optimizer=adam,sgd"`, `"+study=lr"`.
        folder: of the sweep; the same folder goes on with what is there.

    Returns:
        A knobs.report.conclusions.Report, of the runs that ended where some failed.

    Raises:
        UserError: the sweep could not run; its messages are on stderr, its exit code is in the
            error.
    """
    import knobs.report

    if any(line.startswith(("sweep=", "hydra.sweep.dir=")) for line in overrides):
        raise ConfigError("knobs.sweep: name the sweep's folder with folder=, not in an override")
    command = [sys.executable, str(TRAIN), "-m", *overrides, f"hydra.sweep.dir='{folder}'"]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, SWEEP_FAILED):
        error = UserError(f"knobs.sweep: ended with exit code {code}, see its messages")
        error.exit_code = code
        raise error
    return knobs.report(folder)


class _Package(ModuleType):
    """Lets `knobs.sweep(...)` be called, beside being the package."""

    def __call__(self, *overrides: str, folder: str | Path) -> Any:
        return run(*overrides, folder=folder)


sys.modules[__name__].__class__ = _Package
