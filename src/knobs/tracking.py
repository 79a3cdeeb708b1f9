"""The record mirrored to Weights & Biases, in a thread of its own: training never waits for it.

W&B starts while the first epoch trains; importing and starting it takes a second that no step
waits for. Whatever goes wrong there is one line at the end, never the end of the run: the run's
own folder is the truth.
"""

import hashlib
import importlib.metadata
import netrc
import os
import platform
import queue
import socket
import subprocess
import threading
import urllib.parse
from pathlib import Path
from typing import Any

VERSIONED = ("torch", "torchvision", "hydra-core", "omegaconf", "wandb", "numpy")
FINISH_TIMEOUT = 60.0  # seconds to wait for the last upload


def versions() -> dict[str, str]:
    """What ran: Python, the packages that matter, and the git revision if there is one."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    revision = git_revision()
    return found | ({"git": revision} if revision else {})


def git_revision() -> str | None:
    """HEAD of the checkout this code lies in, with `+changes` where files differ from it."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout

    try:
        changed = bool(git("status", "--porcelain", "--untracked-files=no").strip())
        return git("rev-parse", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


class Tracker:
    """One run's mirror. Calls return at once; `finish` waits for the thread.

    Args:
        settings: the config's tracking section.
        config: what W&B shows as the run's config: resolved, and free of secrets.
        folder: the run's; W&B's own files go below it.
    """

    def __init__(self, settings: dict, config: dict, folder: Path):
        self.settings, self.config, self.folder = settings, config, folder
        self.line = ""  # what to tell the person at the end
        self._queue: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._exit_code = 0
        if self.enabled:
            self._thread.start()

    @property
    def enabled(self) -> bool:
        """Whether anything is mirrored."""
        return self.settings["mode"] != "disabled" and os.environ.get("WANDB_MODE") != "disabled"

    def log(self, metrics: dict[str, Any]) -> None:
        """Mirror one epoch."""
        self._queue.put(metrics)

    def finish(self, summary: dict[str, Any], exit_code: int, checkpoint: Path | None) -> str:
        """Mirror the summary, end the W&B run, and return the line to show."""
        if not self.enabled:
            return ""
        self._exit_code = exit_code
        self._queue.put((summary, checkpoint))
        self._thread.join(FINISH_TIMEOUT + 30)
        if self._thread.is_alive():
            return f"W&B did not finish in time; its files are in {self.folder / 'wandb'}"
        return self.line

    def _work(self) -> None:
        try:
            self._mirror()
        except Exception as error:  # W&B must never end a run
            self.line = f"W&B failed and was left out: {type(error).__name__}: {error}"

    def _mirror(self) -> None:
        mode, why = self._mode()
        run = self._start(mode)
        if run is None:
            mode, why = "offline", "the server refused or did not answer"
            run = self._start(mode)
        while isinstance(item := self._queue.get(), dict):
            run.log(item, step=item["epoch"])
        summary, checkpoint = item
        run.summary.update(summary)
        if checkpoint and self.settings["artifact"]:
            run.log_artifact(str(checkpoint), name=f"best-{run.id}", type="model")
        url = run.url if mode == "online" else ""
        run.finish(exit_code=self._exit_code)
        folder = os.path.relpath(Path(run.dir).parent)
        self.line = url if mode == "online" else f"offline: {why}; upload with: wandb sync {folder}"

    def _start(self, mode: str) -> Any:
        """A W&B run, or None where an online one could not be had."""
        # In the environment, not as an argument: only so does the client not look its host up.
        os.environ["WANDB_MODE"] = mode
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            init_timeout=max(5.0, self.settings["timeout"]),
            finish_timeout=FINISH_TIMEOUT,
        )
        try:
            return wandb.init(
                project=self.settings["project"],
                entity=self.settings["entity"],
                group=self.settings["group"],
                name=self.settings["run_name"],
                tags=self.settings["tags"],
                config=self.config | {"versions": versions()},
                dir=str(self.folder),
                id=self._id(),
                resume="allow" if mode == "online" else None,
                reinit="create_new",
                settings=settings,
            )
        except Exception:
            if mode == "offline":
                raise
            wandb.teardown()  # else the offline try would go on with the failed connection
            return None

    def _id(self) -> str:
        """The same for the same folder, so that a resumed run goes on in the same W&B run."""
        text = f"{platform.node()}:{self.folder.resolve()}"
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def _mode(self) -> tuple[str, str]:
        """online or offline, and why."""
        asked = os.environ.get("WANDB_MODE") or self.settings["mode"]
        if asked in ("online", "offline"):
            return asked, "as asked"
        host = urllib.parse.urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
        if not has_credentials(host.hostname or ""):
            return "offline", "no W&B account here (wandb login makes one)"
        port = host.port or (443 if host.scheme == "https" else 80)
        try:
            socket.create_connection((host.hostname, port), self.settings["timeout"]).close()
        except OSError:
            return "offline", f"{host.hostname} does not answer"
        return "online", ""


def has_credentials(host: str) -> bool:
    """Whether a key for the host is in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
