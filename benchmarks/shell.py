"""Commands as a person types them, timed from their start to their end."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from solo import REPO

# Error reports off: at its end an offline run would wait for the host they go to.
WANDB = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


def timed(command: list[str], log: Path) -> float:
    """Seconds of one python command; its output goes to `log`, whose end is shown if it fails."""
    with log.open("w") as out:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command],
            cwd=REPO,
            env=os.environ | WANDB,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {shlex.join(command)}\n{log.read_text()[-3000:]}")
    return seconds
