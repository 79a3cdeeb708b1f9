"""Files of Hugging Face's hub: from its cache, or downloaded; refused at once offline."""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from knobs.errors import ConfigError, first_line

# Of a repository: data alone, no pickles and no code.
FILES = ("*.json", "*.safetensors")
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
SECONDS = 10  # that a server may take to answer at all


@contextlib.contextmanager
def downloads() -> Iterator[None]:
    """Let Hugging Face's hub use its cache alone where its server has no address.

    It would try again for 25 seconds, file by file, before it says so.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    kept, noise = constants.HF_HUB_OFFLINE, logging.getLogger("huggingface_hub")
    level, noise.disabled = noise.disabled, True
    constants.HF_HUB_OFFLINE = kept or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, noise.disabled = kept, level


def _reachable(url: str) -> bool:
    """Return whether a server may be reached: it has an address, or a proxy knows."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    server = urlsplit(url)
    port = server.port or {"http": 80}.get(server.scheme, 443)
    try:
        with socket.create_connection((server.hostname, port), SECONDS):
            return True
    except OSError:
        return False


def folder_of(name: str, asked: str) -> Path:
    """Return the folder of a network of transformers: as it is, or a copy of a hub's repository.

    Of a repository only JSON and safetensors are downloaded, and held against the sizes and hashes
    that the hub announces; what is there is not downloaded again.

    Args:
        name: a folder, or a name of the hub. asked: what names it, for messages.

    Raises:
        ConfigError: neither, or it could not be had.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not _NAME.fullmatch(name):
        wrong = "is a file" if path.exists() else "no such folder"
        raise ConfigError(f"{asked}: {wrong}; give a folder with config.json, tokenizer.json and "
                          "model.safetensors, or a name of the hub")  # fmt: skip
    from huggingface_hub import snapshot_download

    try:
        with downloads():
            return Path(snapshot_download(name, allow_patterns=FILES, etag_timeout=SECONDS))
    except Exception as error:  # no network, no such repository, a proxy's page, one that is closed
        raise ConfigError(
            f"{asked}: no such folder, and from the hub it could not be had ({first_line(error)}); "
            "download it elsewhere and give its folder"
        ) from None
