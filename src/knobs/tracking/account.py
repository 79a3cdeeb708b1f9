"""Find out whether W&B knows anybody here, and whether its server answers."""

import os
import re
import socket
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from knobs.errors import first_line
from knobs.storage import write

LOG_IN = "log in with `wandb login`"
NO_ACCOUNT = f"no W&B account here; {LOG_IN}"
DAY = 86_400.0  # seconds between two words about a missing account
STAMP = "no-wandb-account"  # the file whose time says when the last one was
# Where W&B's client finds an account or a mode, beside the files below; the last is SageMaker's.
CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
NETRCS = ("~/.netrc", "~/_netrc")
SECRETS = "secrets.env"
SAID = re.compile(r"^\s*(?:api_key|mode|disabled)\s*[=:]", re.MULTILINE)  # in a settings file


def traced() -> bool:
    """Return whether anything here may name an account, or a mode, to W&B's client.

    It need not: the client is then asked. Looked for without it, as its import takes a second.
    """
    if "wandb" in sys.modules or any(map(os.environ.get, CREDENTIALS)):
        return True  # code that has imported it may have logged in
    netrc = os.environ.get("NETRC")
    if any(map(_is_there, [netrc] if netrc else NETRCS)) or _is_there(SECRETS):
        return True
    home = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    places = [os.path.join(home, "settings")]
    here = os.environ.get("WANDB_DIR") or "."
    places += [os.path.join(here, name, "settings") for name in ("wandb", ".wandb")]
    return any(map(_says, places))


def _is_there(path: str) -> bool:
    try:
        return os.path.getsize(os.path.expanduser(path)) > 0
    except FileNotFoundError:
        return False
    except OSError:  # there, and not to be looked into
        return True


def _says(path: str) -> bool:
    try:
        text = Path(os.path.expanduser(path)).read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return bool(SAID.search(text))


def told_today() -> bool:
    """Return whether a missing account was named within a day; from now on it was.

    Where the stamp cannot be written it is named again.
    """
    try:
        cache = Path(os.environ.get("KNOBS_CACHE") or Path.home() / ".cache" / "knobs")
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamp = cache / STAMP
        if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < DAY:
            return True
        write(stamp, b"")
    except (OSError, RuntimeError):  # the latter where nobody knows the home folder
        pass
    return False


def kept_offline(mode: str) -> bool:
    """Return whether no network was asked for: by this mode, the environment or `wandb offline`."""
    import wandb

    return bool({mode, wandb.setup().settings.mode} & {"offline", "dryrun", "disabled"})


def no_account() -> str:
    """Say why W&B knows nobody here; empty if it does. Looks on this machine only."""
    if not traced():
        return NO_ACCOUNT
    import wandb

    try:
        account = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        return first_line(error)
    return "" if account else NO_ACCOUNT


def no_server(timeout: float) -> str:
    """Say why W&B's server cannot be reached; empty if nothing is known against it.

    Args:
        timeout: seconds to wait for it.
    """
    import wandb

    server = urllib.parse.urlsplit(wandb.setup().settings.base_url)
    return "" if answers(server, timeout) else f"{server.hostname} does not answer"


def answers(server: urllib.parse.SplitResult, timeout: float) -> bool:
    """Return whether the server, or the proxy on the way to it, takes a connection."""
    proxy = urllib.request.getproxies().get(server.scheme)
    if proxy and not urllib.request.proxy_bypass(server.hostname):
        server = urllib.parse.urlsplit(proxy)
    port = server.port or (443 if server.scheme == "https" else 80)
    try:
        socket.create_connection((server.hostname, port), timeout).close()
    except OSError:
        return False
    return True
