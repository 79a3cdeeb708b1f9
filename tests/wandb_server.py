"""A stand-in for the W&B server on this machine: it answers the real client and keeps what it got."""

import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

KEY = "f" * 40  # what WANDB_API_KEY has to look like
SILENT = 0  # takes connections and never answers


@dataclass
class Received:
    """What arrived of one run.

    Args:
        bucket: variables of UpsertBucket, later ones over earlier ones: name, tags, config, ...
        history: one dict a row.
        summary: the last one.
        exit_code: None until the run says that it is complete.
    """

    bucket: dict[str, Any] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        wrapped = json.loads(self.bucket["config"])
        return {name: node["value"] for name, node in wrapped.items() if name != "_wandb"}


class WandbServer:
    """`with WandbServer() as server`, then run a client with `server.env` in its environment.

    Args:
        status: of every reply; anything but 200 refuses everything, SILENT answers nothing.
    """

    def __init__(self, status: int = 200):
        self.status = status
        self.runs: dict[str, Received] = defaultdict(Received)
        self.files: dict[str, bytes] = {}  # by the name they were announced with
        self.artifacts: list[dict] = []  # each with `committed`
        self.raw: list[bytes] = []  # every request: its path, then its body

    def __enter__(self) -> "WandbServer":
        handler = type("Bound", (_Handler,), {"server_": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def env(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    # ------------------------------------------------------------------ GraphQL, by operation
    def viewer(self, given: dict) -> dict:
        return {"viewer": {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}",
                           "teams": {"edges": []}}}  # fmt: skip

    def server_features_query(self, given: dict) -> dict:
        return {"serverInfo": {"features": []}}
