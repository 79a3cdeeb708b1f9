"""A recorded run -> the overrides that go on with it (`resume=`) or train it anew (`rerun=`).

`refit=` trains it anew on the validation rows as well.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from knobs import record, targets
from knobs.config import command, rules
from knobs.config.check import resolve
from knobs.config.manual import default_options
from knobs.errors import CheckpointError, ConfigError
from knobs.identity import ABSENT, FILES, HIDDEN, differences, key_of, leaves, under
from knobs.search.space import override
from knobs.shell import literal, quoted

# What may change when a run goes on; anything else would make it another run.
RESUMABLE = ("training.epochs", "training.threads", "tracking", "test", "silence")
# What may change when a run is fitted again, with its validation rows.
OF_REFITS = (
    *("hydra", "tracking", "test", "silence", "name", "seed", "trust", "data.root", "data.path"),
    *("data.test_path", "training.threads", "training.device"),
)
# What a run that is trained anew takes from here and now, not from its record.
FROM_HERE = (
    *("hydra", "tracking", "resume", "rerun", "refit", "trust", "sweep"),
    *("retry_failed", "keep_going"),
    *("silence", "search", "study", "zip", "skip", "name"),
)


def resume(folder: str, args: Namespace) -> list[str]:
    """Return the overrides that made the run in `folder`, with what the user changes.

    Raises:
        CheckpointError: no run is there. ConfigError: a change that would make it another run.
    """
    path = path_of(folder)
    before = _recorded(path)
    if before is None:
        raise CheckpointError(f"resume={folder}: no run there (no .hydra/overrides.yaml)")
    if args.multirun:
        raise ConfigError(f"resume={folder}: goes on with one run; leave -m out")
    changes = [o for o in args.overrides if key_of(o) != "resume"]
    for change in changes:
        if not under(key_of(change), RESUMABLE):
            may = f"only {', '.join(RESUMABLE)} may change"
            raise ConfigError(
                f"{change}: a resumed run keeps its knobs; {may}; rerun={folder} trains it anew "
                "with any change"
            )
    if "refit" in map(key_of, before) and "training.epochs" in map(key_of, changes):
        of_it = "a refit ends after the epochs that were best in its run, and its schedule keeps"
        raise ConfigError(f"resume={folder}: {of_it} its length; leave training.epochs out")
    before = [o for o in before if key_of(o) not in ("resume", "hydra.run.dir")]
    place = quoted(literal(str(path)))
    return [*before, *changes, f"resume={place}", f"hydra.run.dir={place}"]


def _recorded(path: Path) -> list[str] | None:
    """Return the overrides that made a run, under the names of today; None where none are known."""
    try:
        lines = OmegaConf.load(path / ".hydra" / "overrides.yaml")
    except (*record.BROKEN, YAMLError):
        try:
            lines = record.read_config(path)["overrides"]
        except (*record.BROKEN, KeyError):
            return None
    return [record.renamed(str(line)) for line in lines]


def same_run(now: dict, folder: str) -> None:
    """Refuse to go on when conf/ has changed since the run began."""
    path = path_of(folder)
    try:
        composed = OmegaConf.load(path / ".hydra" / "config.yaml")
        composed.name = ""  # it names Hydra's choices, which are not in this file
        before = record.migrate(resolve(composed))
    except (*record.BROKEN, YAMLError):
        before = record.read_config(path)["config"]
    paths = differences(before, now)  # `hydra` plays no part in them
    if changed := [path for path in paths if not under(path, RESUMABLE)]:
        raise ConfigError(
            f"resume={folder}: conf/ has changed since that run: {', '.join(changed)}; "
            "put the old values back, or start a new run"
        )


def rerun(folder: str, given: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return overrides that make the config of the run in `folder`, changed as `given` says.

    Its config.json alone is read. Its options are chosen where they still exist; each value that
    they do not bring is an override of its own. What a command line changes has the last word.

    Raises:
        CheckpointError: no run is there. ConfigError: it needs code that is not admitted here, or
            it is somebody else's.
    """
    path = path_of(folder)
    try:
        document = record.read_config(path)
        config, choices = document["config"], dict(document.get("choices") or {})
    except (*record.BROKEN, KeyError, TypeError):
        raise CheckpointError(f"rerun={folder}: no run there (no config.json)") from None
    _trusted(path, folder, given)
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
    lines = rerun(folder, changes, folders)
    config = record.read_config(path)["config"]
    if config["scheduler"]["_target_"].endswith("ReduceLROnPlateau"):
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


def _trusted(path: Path, folder: str, given: Sequence[str]) -> None:
    """Refuse a record of somebody else's, and code of its own that is not admitted here."""
    owner = path.stat().st_uid
    if hasattr(os, "getuid") and owner != os.getuid() and "trust=true" not in given:
        raise ConfigError(
            f"rerun={folder}: belongs to another user ({owner}); read its config.json, then add "
            "trust=true"
        )
    config = record.read_config(path)["config"]
    names = {target for _, target, _ in targets.targets(config) if isinstance(target, str)}
    if own := sorted({name.partition(".")[0] for name in names if not targets.admits(name)}):
        packages = ", ".join(f"{name}." for name in own)
        raise ConfigError(
            f"rerun={folder}: this run used code of its own ({packages}); read it, then export "
            f"KNOBS_ALLOW={','.join(f'{name}.' for name in own)} yourself"
        )


def _tell_files(path: Path, config: dict[str, Any]) -> None:
    """Say which files outside its folder a record makes this process read."""
    named = {p: v for p, v in config.items() if under(p, FILES) and isinstance(v, str)}
    outside = [f"{p}={v}" for p, v in named.items() if path.resolve() not in Path(v).parents]
    if outside:
        print(f"knobs: as its record says, this run reads {', '.join(outside)}", file=sys.stderr)


def path_of(text: str) -> Path:
    """Return the folder that the text behind a `=` names: as it stands there, or quoted."""
    if os.path.exists(text) or text[:1] not in ("'", '"'):
        return Path(text)
    quote = text[0]
    return Path(text.strip(quote).replace(f"\\{quote}", quote))
