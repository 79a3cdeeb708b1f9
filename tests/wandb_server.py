"""A stand-in for the W&B server on this machine: it answers the real client and keeps what it got."""

import json
import re
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

    @property
    def state(self) -> str:
        return {None: "running", 0: "finished"}.get(self.exit_code, "failed")

    def as_asked(self) -> dict[str, Any]:
        """As the public API shows a run."""
        texts = {"config": self.about["config"], "summaryMetrics": json.dumps(self.summary)}
        about = {"name": self.about["name"], "group": self.about.get("groupName")}
        empty = {"tags": [], "historyKeys": {}, "systemMetrics": "{}", "user": {"name": "me"}}
        count = {"historyLineCount": len(self.rows), "projectId": "1"}
        return {"id": "b", "state": self.state} | about | texts | count | empty

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
        broken: paths' last parts and GraphQL operations that are answered with 500 instead.
        keep: how many rows of a history it keeps; all if None.
        said: the body of every answer, whatever was asked; what fits if None.
    """

    daemon_threads = True
    block_on_close = False  # a client may hold its connection open

    def __init__(
        self, status: int = 200, broken: tuple[str, ...] = (), keep: int | None = None,
        said: bytes | None = None,
    ):  # fmt: skip
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.broken, self.keep, self.said = status, broken, keep, said
        self.closing = threading.Event()
        self.runs: dict[str, Arrived] = {}
        self.files: dict[str, bytes] = {}  # uploads, by the name that was asked for
        self.artifacts: list[dict] = []
        self.views: dict[str, dict] = {}  # reports, by id
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
        if operation == "Run":
            run = self.runs.get(given["name"])
            return {"project": {"run": run and run.as_asked()}}
        if operation == "upsertView":
            view_id = given["id"] or f"view{len(self.views)}"
            self.views[view_id] = given | {"id": view_id}
            project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
            return {"upsertView": {"view": self.views[view_id] | {"project": project}}}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        manifest = {"id": "m", "file": {"id": "f", "uploadUrl": self.upload("manifest")}}
        return {
            "Viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}},
            "GetDefaultEntity": {"viewer": {"id": "u", "entity": "me"}},
            "GetProjects": {"models": {"pageInfo": page, "edges": []}},
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
        asked = json.loads(body) if parts[0] == "graphql" else {}
        named = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", ""))
        operation = named[1] if named else parts[-1]
        status, answer = 500 if operation in server.broken else server.status, {}
        if status == SILENT:
            server.closing.wait()
            return
        if status != 200:
            answer = {"errors": [{"message": f"refused with {status}"}]}
        elif parts[0] == "upload":
            server.files["/".join(parts[1:])] = body
        elif parts[0] == "graphql":
            answer = {"data": server.graphql(operation, asked.get("variables", {}))}
        elif parts[-1] == "file_stream":
            run = server.runs[parts[3]]
            run.stream(json.loads(body))
            run.rows = dict(sorted(run.rows.items())[: server.keep])
        content = json.dumps(answer).encode() if server.said is None else server.said
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""
