"""A stand-in for the W&B server on this machine: it answers the real client and keeps what it got."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "f" * 40  # the shape of an API key
SILENT = 0  # takes connections and answers nothing


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was logged, without what the client adds."""
    return {name: value for name, value in row.items() if not name.startswith("_")}


class Arrived:
    """One run as the server knows it.

    Args:
        about: what UpsertBucket said: displayName, groupName, tags, ...
        rows: the history, by line number.
    """

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.rows: dict[int, dict] = {}
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {k: node["value"] for k, node in plain(json.loads(self.about["config"])).items()}

    @property
    def history(self) -> list[dict]:
        return [plain(self.rows[number]) for number in sorted(self.rows)]

    def resume_status(self) -> dict[str, Any]:
        counts = {"historyLineCount": len(self.rows), "logLineCount": 0, "eventsLineCount": 0}
        tail = [json.dumps(self.rows[number]) for number in sorted(self.rows)[-1:]]
        texts = {"config": self.about["config"], "summaryMetrics": json.dumps(self.summary)}
        started = {"wandbConfig": '{"t": {}}'}  # else the client thinks that it never started
        return counts | texts | started | {"historyTail": json.dumps(tail), "eventsTail": "[]"}

    def stream(self, body: dict[str, Any]) -> None:
        files = body.get("files", {})
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for number, line in enumerate(history["content"], history["offset"]):
            self.rows[number] = json.loads(line)
        for line in files.get("wandb-summary.json", {"content": []})["content"]:
            self.summary = json.loads(line)
        if body.get("complete"):
            self.exit_code = body["exitcode"]


class WandbServer(ThreadingHTTPServer):
    """`with WandbServer() as server`, then run a client with `server.env` in its environment.

    Args:
        status: of every answer; SILENT for none.
    """

    daemon_threads = True
    block_on_close = False  # a client may hold its connection open

    def __init__(self, status: int = 200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.closing = status, threading.Event()
        self.runs: dict[str, Arrived] = {}
        self.files: dict[str, bytes] = {}  # uploads, by the name that was asked for
        self.artifacts: list[dict] = []
        self.requests: list[str] = []  # everything as it came
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.env = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are nothing to print."""

    def upload(self, name: str) -> str:
        return f"{self.url}/upload/{name}"

    def graphql(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of an answer; empty for what no test asks for."""
        model = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": given.get("name"), "displayName": "", "config": "{}"}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(given["name"], Arrived())
            run.about |= {name: value for name, value in given.items() if value is not None}
            return {"upsertBucket": {"bucket": bucket | {"project": model}, "inserted": True}}
        if operation == "RunResumeStatus":
            run = self.runs.get(given["name"])
            return {"model": run and model | {"bucket": bucket | run.resume_status()}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": self.upload(name)} for name in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            self.artifacts.append(given["input"])
            made = {"id": "a", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": made}}
        if operation == "CreateArtifactFiles":
            names = [file["name"] for file in given["input"]["artifactFiles"]]
            files = [{"storagePath": n, "uploadUrl": self.upload(n)} for n in names]
            edges = [{"node": file | {"artifact": {"id": "a"}}} for file in files]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        manifest = {"id": "m", "file": {"id": "f", "uploadUrl": self.upload("manifest")}}
        return {
            "Viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifactManifest": {"createArtifactManifest": {"artifactManifest": manifest}},
            "CommitArtifact": {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}},
        }.get(operation, {})


class Handler(BaseHTTPRequestHandler):
    """One request of a client."""

    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, parts = self.server, self.path.strip("/").split("/")
        server.requests.append(f"{self.path} {body.decode(errors='replace')}")
        answer: dict[str, Any] = {}
        if server.status == SILENT:
            server.closing.wait()
            return
        if server.status != 200:
            answer = {"errors": [{"message": f"refused with {server.status}"}]}
        elif parts[0] == "upload":
            server.files["/".join(parts[1:])] = body
        elif parts[0] == "graphql":
            asked = json.loads(body)
            operation = asked["query"].replace("(", " ").split()[1]
            answer = {"data": server.graphql(operation, asked.get("variables", {}))}
        elif parts[-1] == "file_stream":
            server.runs[parts[3]].stream(json.loads(body))
        content = json.dumps(answer).encode()
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""
