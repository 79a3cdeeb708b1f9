"""A recorded run -> the overrides that go on with it (`resume=`) or train it anew (`rerun=`).

`refit=` trains it anew on the validation rows as well.
"""

import os
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knobs import record, storage, targets
from knobs.config import command, rules
from knobs.config.manual import default_options
from knobs.errors import CheckpointError, ConfigError, note
from knobs.identity import ABSENT, FILES, differences, identity, key_of, leaves, under, walk
from knobs.search.space import override
from knobs.secrets import HIDDEN
from knobs.shell import literal, quoted
from knobs.words import printable

# What may change when a run goes on; anything else would make it another run.
RESUMABLE = (
    *("training.epochs", "training.threads", "training.processes", "tracking", "test", "silence"),
)
# What may change when a run is fitted again, with its validation rows.
OF_REFITS = (
    *("hydra", "tracking", "test", "silence", "name", "seed", "trust", "data.root", "data.path"),
    *("data.test_path", "training.threads", "training.processes", "training.device"),
)
# What a run that goes on, or is trained anew, takes from here and now, not from its record.
NOT_RESUMED = (
    *("hydra", "tracking", "resume", "rerun", "trust", "sweep", "retry_failed", "keep_going"),
    *("search", "study", "zip", "skip"),
)
FROM_HERE = (*NOT_RESUMED, "refit", "silence", "name")
# Recorded modes of tracking that a resume keeps: what is said of them here may only be less.
KEPT_HERE = {"disabled": "tracking=local", "offline": "tracking.mode=offline"}


def resume(folder: str, args: Namespace) -> list[str]:
    """Return the overrides that made the run in `folder`, with what the user changes.

    Its config.json alone is read. What Hydra does and where the run is mirrored comes from this
    command line; but what was kept from W&B is still kept from it.

    Raises:
        CheckpointError: no run is there, or not as it began. ConfigError: a change that would make
            it another run, or a folder that is not to be trusted: see `_trusted`.
    """
    path = path_of(folder)
    given = [line for line in args.overrides if key_of(line) not in ("resume", "trust")]
    document = _document(path, f"resume={folder}", args.overrides)
    _refuse_changed(folder, document)
    if args.multirun:
        raise ConfigError(f"resume={folder}: goes on with one run; leave -m out")
    for change in given:
        if not under(key_of(change), (*RESUMABLE, "hydra")):
            may = f"only {', '.join(RESUMABLE)} may change"
            raise ConfigError(
                f"{change}: a resumed run keeps its knobs; {may}; rerun={folder} trains it anew "
                "with any change"
            )
        if key_of(change) == "hydra.run.dir":
            raise ConfigError(f"{change}: a resumed run stays in its folder; leave it out")
    before = [line for line in document["overrides"] if not _from_here(line)]
    if hidden := [line for line in before if HIDDEN in line]:
        lacks = f"its record hides {len(hidden)} of its overrides, which held secrets"
        raise ConfigError(f"resume={folder}: {lacks}; start a new run")
    if "refit" in map(key_of, before) and "training.epochs" in map(key_of, given):
        of_it = "a refit ends after the epochs that were best in its run, and its schedule keeps"
        raise ConfigError(f"resume={folder}: {of_it} its length; leave training.epochs out")
    tracking = document["config"].get("tracking")
    mode = str(tracking.get("mode")) if isinstance(tracking, dict) else ""
    if mode in KEPT_HERE and not any(under(key_of(line), ("tracking",)) for line in given):
        before.append(KEPT_HERE[mode])
    _tell_files(path, dict(leaves(document["config"])))
    place = quoted(literal(str(path)))
    return [*before, *given, f"resume={place}", f"hydra.run.dir={place}"]


def _from_here(line: str) -> bool:
    """Return whether an override sets what comes from this command line, not from a record."""
    names = re.split("[@:]", line.partition("=")[0])  # GROUP@PACKAGE, and what it was before
    return any(under(key_of(name), NOT_RESUMED) for name in names)


def _document(path: Path, asked: str, given: Sequence[str]) -> dict[str, Any]:
    """Return a run's config.json, of a folder that may be trusted.

    Args:
        asked: `resume=FOLDER`, as it was typed.

    Raises:
        CheckpointError: no run is there, or its config.json is damaged. ConfigError: as of
            `_trusted`.
    """
    if not os.path.exists(path / record.CONFIG):  # False, too, for a name that no disk takes
        raise CheckpointError(f"{asked}: no run there (no {record.CONFIG} that can be read)")
    try:
        document = record.read_config(path)
        sound = isinstance(document["config"], dict) and isinstance(document["overrides"], list)
        sound = sound and bool(list(walk(document["config"])))  # not nested too deeply
    except (record.NewerSchema, CheckpointError):
        raise
    except (*record.BROKEN, KeyError, TypeError):
        sound = False
    if not sound:
        why = "holds no config of a run, or cannot be read; put it back from a copy"
        raise CheckpointError(f"{asked}: its {record.CONFIG} {why}")
    _trusted(path, asked, given, document["config"])
    return document


def _refuse_changed(folder: str, document: dict[str, Any]) -> None:
    """Refuse to go on with a run whose config is not the one that it began with.

    Raises:
        CheckpointError: saying so.
    """
    config = document["config"]
    hides = any(HIDDEN in str(value) for _, value in leaves(config))
    if not hides and document.get("identity", identity(config)) != identity(config):
        raise CheckpointError(
            f"resume={folder}: its {record.CONFIG} is damaged, or was changed, or conf/ has other "
            "defaults now: its identity is not that of its config; put back what was there, or "
            "begin a new run"
        )


def same_run(now: dict, folder: str) -> None:
    """Refuse to go on when conf/ has changed since the run began.

    Args:
        now: the config as it is composed today, held against the one of config.json.
    """
    before = record.read_config(path_of(folder))["config"]
    secret = {path for path, value in leaves(before) if HIDDEN in str(value)}
    changed = differences(before, now)  # `hydra` plays no part in them
    if changed := [p for p in changed if not under(p, RESUMABLE) and p not in secret]:
        raise ConfigError(
            f"resume={folder}: conf/ has changed since that run: {', '.join(changed)}; "
            "put the old values back, or start a new run"
        )


def rerun(
    folder: str, given: Sequence[str], folders: Sequence[Path], word: str = "rerun"
) -> list[str]:
    """Return overrides that make the config of the run in `folder`, changed as `given` says.

    Its config.json alone is read. Its options are chosen where they still exist; each value that
    they do not bring is an override of its own. What a command line changes has the last word.

    Args:
        word: that was typed.

    Raises:
        CheckpointError: no run is there. ConfigError: it needs code that is not admitted here, or
            it is somebody else's.
    """
    path = path_of(folder)
    document = _document(path, f"{word}={folder}", given)
    config, choices = document["config"], document.get("choices")
    choices = choices if isinstance(choices, dict) else {}
    changed = {key_of(line) for line in given}
    groups = {g: o for g, o in choices.items() if o in rules.options(g, folders)}
    groups.pop("experiment", None)  # a recipe of those others, and of values
    usual = default_options(folders[0] / "config.yaml")
    lines = [f"{group}={option}" for group, option in groups.items() if usual.get(group) != option]
    wanted = {p: v for p, v in leaves(config) if not under(p, FROM_HERE)}
    if hidden := [p for p, v in wanted.items() if v == HIDDEN and not under(p, tuple(changed))]:
        raise ConfigError(
            f"{hidden[0]}: is hidden in the record of {folder}; give {hidden[0]}=VALUE"
        )
    for resolved in (False, True):  # what a `${...}` comes to may follow from the others
        has = dict(leaves(command.composed(lines, folders, resolved)))
        lines += [
            override(("" if p in has else "++") + p, literal(v) if isinstance(v, str) else v)
            for p, v in wanted.items()
            if has.get(p, ABSENT) != v and (resolved or "${" not in str(has.get(p)))
        ]
    _tell_files(path, wanted)
    # An option or a value that the command line gives takes the place of what was there.
    kept = [line for line in lines if not under(key_of(line), tuple(changed))]
    return [*kept, *(line for line in given if key_of(line) not in ("rerun", "trust"))]


def refit(folder: str, given: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return overrides that train the config of the run in `folder` on its validation rows as well.

    Raises:
        CheckpointError: no run that has ended is there. ConfigError: a change that would make it
            another config, or a schedule that follows the validation split.
    """
    path = path_of(folder)
    changes = [line for line in given if key_of(line) != "refit"]
    for change in changes:
        if not under(key_of(change), OF_REFITS):
            may = f"only {', '.join(OF_REFITS)} may change"
            raise ConfigError(f"{change}: a refit keeps its knobs; {may}; rerun={folder} first")
    record.best_epoch(path)
    lines = rerun(folder, changes, folders, "refit")
    config = record.read_config(path)["config"]
    if str(dict(leaves(config)).get("scheduler._target_")).endswith("ReduceLROnPlateau"):
        needs = "scheduler=plateau follows the validation split, which a refit trains on"
        raise ConfigError(f"refit={folder}: {needs}; train it with another schedule first")
    data = config["data"]
    folds, fold, split = data.get("folds"), data.get("fold"), str(data.get("split"))
    if folds and split.startswith("time:") and fold < folds - 1:
        early = f"fold {fold} of data.split={split} ends before the newest rows"
        raise ConfigError(f"refit={folder}: {early}; refit the run of data.fold={folds - 1}")
    if "name" not in map(key_of, changes):
        lines = [f"name={quoted(literal('refit-' + config['name']))}", *lines]
    return [*lines, f"refit={quoted(literal(str(path)))}"]


def _trusted(path: Path, asked: str, given: Sequence[str], config: dict[str, Any]) -> None:
    """Refuse a folder of somebody else's, or open to others, and code that is not admitted here.

    Raises:
        ConfigError: saying what to do.
    """
    storage.closed(path)
    owner = path.stat().st_uid
    if hasattr(os, "getuid") and owner != os.getuid() and "trust=true" not in given:
        raise ConfigError(
            f"{asked}: belongs to another user ({owner}); read its config.json, then add trust=true"
        )
    names = {target for _, target, _ in targets.targets(config) if isinstance(target, str)}
    if own := sorted({name.partition(".")[0] for name in names if not targets.admits(name)}):
        packages = ", ".join(f"{printable(name, 60)}." for name in own)
        raise ConfigError(
            f"{asked}: this run used code of its own ({packages}); read it, then export "
            "KNOBS_ALLOW for it yourself"
        )


def _tell_files(path: Path, config: dict[str, Any]) -> None:
    """Say which files outside its folder a record makes this process read."""
    named = {p: v for p, v in config.items() if under(p, FILES) and isinstance(v, str)}
    outside = [f"{p}={v}" for p, v in named.items() if path.resolve() not in Path(v).parents]
    if outside:
        note(f"as its record says, this run reads {', '.join(outside)}")


def path_of(text: str) -> Path:
    """Return the folder that the text behind a `=` names: as it stands there, or quoted."""
    if os.path.exists(text) or text[:1] not in ("'", '"'):
        return Path(text)
    quote = text[0]
    return Path(text.strip(quote).replace(f"\\{quote}", quote))
