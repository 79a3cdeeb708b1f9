"""Places of the runs of a study: which arm each is of, and why it ran; a folder's kind by them."""

import contextlib
from pathlib import Path
from typing import Any

from knobs import ledger
from knobs.record import BROKEN, CONFIG, JOURNAL, SEARCHED, STUDY, read_config


def kind(folder: Path) -> str:
    """Return `study`, a search included, or `grid`, by what lies in a sweep's folder; else nothing.

    A lost file makes none of the other: each run says by itself whether it is of a study.
    """
    if (folder / STUDY).exists() or (folder / JOURNAL).exists():
        return "study"
    for path in folder.glob(f"*/{CONFIG}"):
        with contextlib.suppress(*BROKEN, KeyError, TypeError, AttributeError):
            return "study" if read_config(path.parent)["run"].get("role") else "grid"
    return "grid" if ledger.read(folder) else ""


def recorded(folder: Path) -> dict[int, dict[str, Any]]:
    """Return number -> place of the runs of a study, by their own records."""
    places = {}
    for path in folder.glob(f"*/{CONFIG}"):
        with contextlib.suppress(*BROKEN, KeyError, TypeError, AttributeError):
            document = read_config(path.parent)
            about, role = document["run"], document["run"]["role"]
            place = {"arm": about["arm"], "role": role}
            if role in SEARCHED:
                place["phase"] = about.get("phase", "")
            elif role != "test":
                place["seed"] = document["config"]["seed"]
            if role == "step":
                place |= {key: about[key] for key in ("step", "knob")}
            places[int(path.parent.name)] = place
    return places
