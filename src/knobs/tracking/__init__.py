"""Runs mirrored beside their records, to Weights & Biases or wherever `tracking._target_` says."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from knobs import targets
from knobs.errors import first_line


class Mirror:
    """Mirrors one run; a mirror of one's own derives from this one.

    Args:
        config: resolved, and free of secrets.
        folder: the run's.
        earlier: the epochs before this one, of a run that is resumed.
        settings: the other keys of the config's tracking section.
    """

    label = "mirror"  # of the line that `wait` returns

    def __init__(self, config: dict, folder: Path, earlier: list[dict], **settings: Any): ...

    @staticmethod
    def enabled(settings: dict) -> bool:
        """Return whether a run with these tracking settings is mirrored."""
        return True

    @staticmethod
    def idle(settings: dict) -> bool:
        """Return whether it certainly sends nothing now: a stack then needs no process for it."""
        return False

    @staticmethod
    def faults(settings: dict) -> Iterator[str]:
        """Yield a line for each of these settings that the mirror would refuse; before any run."""
        yield from ()

    @staticmethod
    def named(settings: dict, name: str) -> dict:
        """Return the settings that apply, as the record has them: those left open are filled in.

        Args:
            name: the run's, where it has no other.
        """
        return dict(settings)

    def log(self, metrics: dict[str, Any]) -> None:
        """Mirror one epoch."""

    def end(self, summary: dict[str, Any], exit_code: int, checkpoint: Path | None) -> None:
        """Mirror the summary."""

    def judge(self, best: bool) -> None:
        """Note, after `end`, whether this run is a single one or the best of its sweep."""

    def wait(self) -> str:
        """Wait until all is mirrored; return the line to show."""
        return ""


class Guarded(Mirror):
    """A mirror whose failure does not end its run, but is told at the end.

    Args:
        make: what makes it.
    """

    def __init__(self, make: Callable[[], Mirror]):
        self._mirror, self._fault = Mirror({}, Path(), []), ""
        self._mirror = self._call(make) or self._mirror
        self.label = self._mirror.label

    def _call(self, do: Callable, *arguments: Any) -> Any:
        if self._fault:
            return None
        try:
            return do(*arguments)
        except Exception as error:  # of whatever kind
            reason = f"{type(error).__name__}: {first_line(error)}"
            self._fault = f"failed, the run's own record did not: {reason}"
            return None

    def log(self, metrics: dict[str, Any]) -> None:
        """Mirror one epoch."""
        self._call(self._mirror.log, metrics)

    def end(self, summary: dict[str, Any], exit_code: int, checkpoint: Path | None) -> None:
        """Mirror the summary."""
        self._call(self._mirror.end, summary, exit_code, checkpoint)

    def judge(self, best: bool) -> None:
        """Note whether it is a single run or the best of its sweep."""
        self._call(self._mirror.judge, best)

    def wait(self) -> str:
        """Wait until all is mirrored; return the line to show."""
        return self._call(self._mirror.wait) or self._fault


def kind(settings: dict) -> type[Mirror]:
    """Return the class that a config's tracking section names; Mirror where it is not in use."""
    named = targets.resolve("tracking", settings["_target_"])
    return named if named.enabled(settings) else Mirror


def named(settings: dict, name: str) -> dict:
    """Return a config's tracking section with what was left open filled in; see `Mirror.named`."""
    return targets.resolve("tracking", settings["_target_"]).named(settings, name)


def mirror(settings: dict, config: dict, folder: Path, earlier: list[dict]) -> Mirror:
    """Return a run's mirror.

    Args:
        settings: the config's tracking section.
        config, folder, earlier: as Mirror has them.
    """
    if kind(settings) is Mirror:
        return Mirror(config, folder, earlier)
    make = targets.make("tracking", settings | {"_partial_": True})
    return Guarded(lambda: make(config, folder, earlier))
