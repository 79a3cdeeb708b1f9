"""The record mirrored to Weights & Biases, in a thread of its own: training never waits for it.

W&B starts while the first epoch trains; importing and starting it takes a second that no step
waits for. Whatever goes wrong there is one line at the end, never the end of the run: the run's
own folder is the truth.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import queue
import re
import shlex
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from knobs.errors import first_line
from knobs.metrics import METRICS, RARE, mode_of
from knobs.secrets import public
from knobs.tracking import Mirror, about, account, tables
from knobs.tracking.about import MAX_TAG
from knobs.tracking.account import LOG_IN, NO_ACCOUNT
from knobs.words import printable

VERSIONED = ("torch", "torchvision", "hydra-core", "omegaconf", "wandb", "numpy")
FINISH_TIMEOUT = 60.0  # seconds to wait for the last upload
# Nothing printed, and no error reports: an offline run's end would wait for the host they go to.
QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
# Given up after seconds, where the client would try for minutes, and some things for ever.
BOUNDED = {
    "WANDB_HTTP_TIMEOUT": "10",
    "WANDB_X_GRAPHQL_RETRY_MAX": "1",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "3",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "3",
}


# What W&B's client takes: wandb.Settings, validate_project and validate_run_tags; the server
# takes no longer names of runs and groups.
MAX_NAME = 128  # characters
NAME = re.compile(rf"[^/\\#?%:\x00-\x1f]{{1,{MAX_NAME}}}")  # of a project or an entity
NAME_RULE = f"must be 1 to {MAX_NAME} characters, none of / \\ # ? % :"
LENGTH_RULE = f"must be 1 to {MAX_NAME} characters"
# Settings that W&B's variables give where the config leaves them open.
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "run_name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
}
DEFAULT_PROJECT = "knobs"
# All that git is given: no settings but the checkout's own, no lock of its index.
GIT_ENVIRONMENT = {
    "PATH": os.defpath, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0",
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip


@functools.cache
def versions() -> dict[str, str]:
    """Return what ran: Python, the packages that matter, and the git revision if there is one."""
    packages = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    revision = git_revision()
    return packages | ({"git": revision} if revision else {})


def git_revision() -> str | None:
    """Return HEAD of the checkout this code lies in, with `+changes` where files differ from it.

    Of git itself nothing runs that a config, a variable or the checkout's own settings name: no
    file-system monitor, hook or pager.
    """
    root = Path(__file__).resolve().parents[3]
    folders = filter(os.path.isabs, os.environ.get("PATH", os.defpath).split(os.pathsep))
    git = shutil.which("git", path=os.pathsep.join(folders))
    if git is None or not (root / ".git").exists():
        return None
    off = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "core.pager=cat")
    words = ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
    command = [git, "-C", str(root), *(word for one in off for word in ("-c", one)), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=5, env=GIT_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Tracker(Mirror):
    """Mirrors one run to W&B. Calls return at once; `wait` waits for the thread.

    Args:
        config: what W&B shows as the run's config.
        folder: the run's; W&B's own files go below it.
        earlier: epochs of a run that is resumed.
        settings: the keys of conf/tracking/wandb.yaml.
    """

    label = "W&B"
    _given_up = ""  # why the server was: a sweep's later jobs do not wait for it again
    _starting = threading.Lock()  # one at a time: a start that failed is cleared away for all
    _live = 0  # runs under way, which that must not take along

    def __init__(
        self, config: dict, folder: Path, earlier: list[dict], *,
        mode: str, project: str | None, entity: str | None, group: str | None,
        tags: list[str] | None, run_name: str | None, artifact: bool, timeout: float,
    ):  # fmt: skip
        self.mode, self.artifact, self.timeout = mode, artifact, timeout
        self.place = {"project": project or DEFAULT_PROJECT, "entity": entity, "group": group}
        self.tags = tags
        self.config, self.folder, self.run_name = config, folder, run_name
        self.line = ""  # what to tell the person at the end
        self._queue: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._exit_code: int | None = None  # until the run ended
        self._judged = False
        self._resumed = bool(earlier)
        for row in earlier:  # again: W&B drops what it has, and may have nothing
            self.log(row)
        self._thread.start()

    @staticmethod
    def enabled(settings: dict) -> bool:
        """Return whether a run with these tracking settings is mirrored."""
        return settings["mode"] != "disabled" and os.environ.get("WANDB_MODE") != "disabled"

    @staticmethod
    def idle(settings: dict) -> bool:
        """Return whether W&B certainly knows nobody here; the record waits for `knobs sync`."""
        asked = os.environ.get("WANDB_MODE") or settings["mode"]
        return asked in ("auto", "online") and not account.traced()

    @staticmethod
    def faults(settings: dict) -> Iterator[str]:
        """Yield a line for each name that W&B would refuse."""
        if not Tracker.enabled(settings):
            return
        for key, variable in VARIABLES.items():
            stated = settings.get(key) is not None
            field = f"tracking.{key}" if stated else variable
            value = settings[key] if stated else _variable(key)
            if key == "tags":
                for tag in value or []:
                    if not 1 <= len(tag) <= MAX_TAG:
                        shown = printable(public(tag), 40)
                        yield f"{field}: {shown}: a tag must be 1 to {MAX_TAG} characters"
            elif value is not None:
                named = key in ("project", "entity")
                if not (NAME.fullmatch(value) if named else 1 <= len(value) <= MAX_NAME):
                    rule = NAME_RULE if named else LENGTH_RULE
                    yield f"{field}={printable(public(value), 40)}: {rule}; choose another"

    @staticmethod
    def named(settings: dict, name: str) -> dict:
        """Return the settings, with W&B's variables and the defaults where they leave a name open.

        Args:
            name: the run's, where it has no other.
        """
        if not Tracker.enabled(settings):  # by a variable, which no later upload would know of
            return settings | {"mode": "disabled"}
        filled = {key: settings.get(key) for key in VARIABLES}
        filled |= {key: _variable(key) for key, value in filled.items() if value is None}
        filled["project"] = filled["project"] or DEFAULT_PROJECT
        filled["run_name"] = filled["run_name"] or name[:MAX_NAME]
        return settings | filled

    def log(self, metrics: dict[str, Any]) -> None:
        """Mirror one epoch."""
        self._queue.put({"_timestamp": time.time()} | metrics)  # W&B may start later

    def end(self, summary: dict[str, Any], exit_code: int, checkpoint: Path | None) -> None:
        """Mirror the summary; the W&B run ends with its verdict. Returns at once."""
        self._exit_code = exit_code
        self._queue.put((summary, checkpoint))

    def judge(self, best: bool) -> None:
        """End the W&B run, with what only a single run or the best of a sweep shows."""
        self._judged = True
        self._queue.put(best)

    def wait(self) -> str:
        """Wait until W&B has it all; return the line to show."""
        if self._exit_code is None:
            self.end({}, 1, None)  # the run never came to its end
        if not self._judged:
            self.judge(False)
        self._thread.join(FINISH_TIMEOUT + 30)
        if self._thread.is_alive():
            return f"W&B did not finish in time; its files are in {self.folder / 'wandb'}"
        return self.line

    def _work(self) -> None:
        try:
            self._mirror()
        except Exception as error:  # W&B must never end a run
            reason = f"{type(error).__name__}: {first_line(error)}"
            self.line = f"W&B failed, the run's own record did not: {reason}"

    def _mirror(self) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)  # before the import, which reads them
        self.about = about.read(self.folder, self.config)
        with Tracker._starting:
            run, why = self._start_online()
            if why == NO_ACCOUNT:  # the record has all that a later upload needs
                place = self.folder.parent if self.about.sweep else self.folder
                send = f"no account; {LOG_IN}, then: {upload(place)}"
                self.line = "" if account.told_today() else send
                return
            run = run or self._start("offline")
            Tracker._live += 1
        self.line = run.url
        if self.about.sweep and run.url and (group := self.place["group"]):
            self.line = f"{run.project_url}/groups/{urllib.parse.quote(group, safe='')}"
        if why:
            self.line = f"offline: {why}; upload with: {upload(self.folder)}"
        try:
            self._send(run)
        finally:
            Tracker._live -= 1
            try:
                run.finish(exit_code=self._exit_code)
            except TimeoutError:
                files = shlex.quote(os.path.relpath(Path(run.dir).parent))
                sync = f"wandb sync --no-skip-online {files}"
                self.line = f"the server stopped answering; upload the rest with: {sync}"

    def _send(self, run: Any) -> None:
        item, defined = self._queue.get(), False
        while isinstance(item, dict):
            if not defined:
                self._define(run, item)
            defined = True
            run.log(item, step=item["epoch"])
            item = self._queue.get()
        summary, checkpoint = item
        run.summary.update(summary)
        with contextlib.suppress(AttributeError):  # not public: else waiting counts as running
            run._interface.publish_pause()
        best = self._queue.get() is True
        if checkpoint and self.artifact:
            aliases = ["latest", run.id, *["best"] * best]
            run.log_artifact(self._artifact(checkpoint, summary), aliases=aliases)
        if best and (found := tables.table(self.folder, self.config)):
            import wandb

            name, columns, rows = found
            run.summary[name] = wandb.Table(columns=columns, data=public(rows))

    def _define(self, run: Any, metrics: dict[str, Any]) -> None:
        """Let W&B's own summary of each metric be its best value, of the objective the last too."""
        objective = self.config.get("objective") or {}
        own = (self.config.get("metrics") or {}).get("own") or {}
        judged = {objective.get("metric"): objective.get("mode")}
        judged |= {RARE: "max"} if objective.get("rare") else {}  # there where it is the objective
        for name in metrics:
            mode = (own.get(name.rpartition("/")[2]) or {}).get("mode")
            if name in judged:
                run.define_metric(name, summary=f"{judged[name]},last")
            elif "/" in name and (mode or name.rpartition("/")[2] in METRICS):
                run.define_metric(name, summary=mode or mode_of(name))

    def _artifact(self, checkpoint: Path, summary: dict[str, Any]) -> Any:
        """Return the best checkpoint as DATA-MODEL-best, with what its weights are."""
        import wandb

        metadata = {
            "metric": summary.get("metric"),  # of rare classes not that of the config
            "value": summary.get("objective"),
            "epoch": summary.get("best_epoch"),
            "data_hash": self.about.data.get("hash"),
            "commit": self._origin()[0].get("git"),
            "classes": public(tables.classes(self.folder)),
        }
        # What W&B takes in the name of an artifact: letters, digits, . _ -
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(filter(None, [*self.about.names, "best"])))
        artifact = wandb.Artifact(name[-MAX_NAME:], type="model", metadata=metadata)
        # Read where it lies; else W&B leaves copies in the home folder, which nothing empties.
        artifact.add_file(str(checkpoint.resolve()), policy="immutable", skip_cache=True)
        return artifact

    def _origin(self) -> tuple[dict[str, str], str]:
        """Return the versions of what trains the run, and the host."""
        return versions(), platform.node()

    def _files(self) -> Path:
        """Return the folder below which W&B's files go."""
        return self.folder

    def _why_offline(self) -> str:
        """Return why the run cannot be online; empty where it can."""
        asked = os.environ.get("WANDB_MODE") or self.mode
        if Tracker.idle({"mode": asked}):  # before the import
            return NO_ACCOUNT
        if account.kept_offline(asked):
            return "as asked"
        if (why := account.no_account()) or asked == "online":
            return why
        Tracker._given_up = Tracker._given_up or account.no_server(self.timeout)
        return Tracker._given_up

    def _start_online(self) -> tuple[Any, str]:
        """Return a W&B run and no reason, or no run and the reason."""
        if why := self._why_offline():
            return None, why
        import wandb

        before = set(self.folder.glob("wandb/run-*"))
        try:
            return self._start("online"), ""
        except Exception as error:
            server = urllib.parse.urlsplit(wandb.setup().settings.base_url)
            Tracker._given_up = f"{server.hostname} let no run start ({first_line(error)})"
        if not Tracker._live:
            wandb.teardown()  # else the offline try would go on with the failed connection
        for folder in set(self.folder.glob("wandb/run-*")) - before:
            shutil.rmtree(folder, ignore_errors=True)
        return None, Tracker._given_up

    def _start(self, mode: str) -> Any:
        import wandb

        told, tags, (ran, host) = self.about, self.tags, self._origin()
        revision = ran.get("git")
        return wandb.init(
            mode=mode,
            **self.place,
            name=self.run_name,
            tags=told.tags if tags is None else tags,
            job_type=public(os.environ.get("WANDB_JOB_TYPE")) or told.job_type,
            # W&B would read the environment's as they are; a secret among them is hidden.
            notes=public(os.environ.get("WANDB_NOTES")) or told.notes or None,
            config=told.config_with(revision, host) | {"versions": ran},
            dir=str(self._files()),
            id=run_id(self.folder),
            resume="allow" if self._resumed and mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                git_commit=revision and revision.partition("+")[0],
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                init_timeout=self.timeout,
                finish_timeout=FINISH_TIMEOUT,
                finish_timeout_raises=True,
            ),
        )


def _variable(key: str) -> Any:
    """Return what W&B's variable says for a setting; None where it is not set, or empty."""
    value = os.environ.get(VARIABLES[key]) or None
    if key != "tags" or value is None:
        return value
    return [tag.strip() for tag in value.split(",") if tag.strip()]


def upload(folder: Path) -> str:
    """Return the command that uploads an offline run, and all others below outputs/ if it is."""
    if Path("Makefile").is_file() and folder.resolve().is_relative_to(Path("outputs").resolve()):
        return "make sync"
    return f"python -m knobs.tracking.sync {shlex.quote(os.path.relpath(folder))}"


def run_id(folder: Path) -> str:
    """Return a folder's id, so that a resumed run goes on in the same W&B run."""
    text = f"{platform.node()}:{folder.resolve()}"
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
