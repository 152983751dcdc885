"""A local W&B server with the part of the protocol that the pinned wandb package needs. It stores and counts uploads.

Rows arrive as lines of wandb-history.jsonl with the offset of the first one. A repeated request, whose answer was lost, stores
its lines in the same place. A resumed run asks for the number of lines and the last line.

`outage` is a name of OUTAGES, or None for a healthy server. Each outage processes as much of a request as a real one could:
`cut` stores the request before the connection breaks in the middle of the answer.
"""

import contextlib
import http.server
import json
import re
import socket
import threading
from typing import Any

CODES = {"error": 500, "busy": 429, "forbidden": 403, "missing": 404}
GARBAGE = {"garbage": b"<html>Please sign in to this hotel's network.</html>", "empty": b"{}"}
OUTAGES = ("refuse", "hang", "cut", *CODES, *GARBAGE)
ENTITY = {"id": "1", "name": "people"}
KEY = "0" * 40  # of an account, in the format that wandb checks


class Run:
    """The data of one run on the server."""

    def __init__(self, name: str):
        self.name, self.config, self.display_name = name, "{}", None
        self.lines: dict[str, dict[int, str]] = {}  # per file, the lines by their position
        self.requests = 0  # with rows
        self.uploads: dict[str, int] = {}  # per uploaded file, its bytes
        self.exit_code: int | None = None

    def rows(self, file: str = "wandb-history.jsonl") -> list[dict]:
        return [json.loads(line) for _, line in sorted(self.lines.get(file, {}).items())]

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.rows()]

    def take(self, sent: dict) -> None:
        for file, part in sent.get("files", {}).items():
            self.requests += file == "wandb-history.jsonl"
            self.lines.setdefault(file, {}).update(enumerate(part["content"], start=part["offset"]))
        if sent.get("complete"):
            self.exit_code = sent.get("exitcode")

    def describe(self) -> dict:
        count = {kind: len(self.lines.get(f"wandb-{kind}.jsonl", {})) for kind in ("history", "events")}
        summary = self.lines.get("wandb-summary.json", {})
        started = json.loads(self.config).get("_wandb", {}).get("value", {}).get("t")
        return {
            "id": self.name,
            "name": self.name,
            "displayName": self.display_name,
            "description": None,
            "config": self.config,
            "sweepName": None,
            "project": {"id": "2", "name": "project", "entity": ENTITY},
            "summaryMetrics": summary[max(summary)] if summary else "{}",
            "logLineCount": 0,
            "historyLineCount": count["history"],
            "eventsLineCount": count["events"],
            "historyTail": json.dumps([json.dumps(row) for row in self.rows()[-1:]]),
            "eventsTail": json.dumps([json.dumps(row) for row in self.rows("wandb-events.jsonl")[-1:]]),
            "tags": [],
            "notes": None,
            "state": "running" if self.exit_code is None else "finished",
            "wandbConfig": json.dumps({"t": started} if started else {}),
        }

    def list_files(self) -> dict:
        nodes = [{"id": name, "name": name, "sizeBytes": size} for name, size in self.uploads.items()]
        edges = [{"node": node, "cursor": node["id"]} for node in nodes]
        return {
            "fileCount": len(edges),
            "files": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}},
        }


class WandbServer:
    """A server in threads during a context, always at the same address."""

    def __init__(self):
        self.runs: dict[str, Run] = {}
        self._outage: str | None = None
        self._healthy = threading.Event()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}
        self._server: _Listener | None = None

    def __enter__(self) -> "WandbServer":
        self.outage = None
        return self

    def __exit__(self, *_) -> None:
        self.outage = "refuse"

    @property
    def outage(self) -> str | None:
        return self._outage

    @outage.setter
    def outage(self, name: str | None) -> None:
        assert name is None or name in OUTAGES, name
        self._outage = name
        if name is None:
            self._healthy.set()
        else:
            self._healthy.clear()
        if name == "refuse" and self._server:
            self._server.stop()
            self._server = None
        elif name != "refuse" and not self._server:
            self._server = _Listener(self._port, self)
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, method: str, path: str, body: bytes) -> bytes:
        """Store the content of a request and return the answer."""
        if path == "/graphql":
            asked = json.loads(body)
            (operation,) = re.findall(r"(?:query|mutation) +(\w+)", asked["query"])[:1]
            return json.dumps({"data": self._answer(operation, asked.get("variables") or {})}).encode()
        if stream := re.fullmatch(r"/files/[^/]*/[^/]*/([^/]*)/file_stream", path):
            self.run(stream[1]).take(json.loads(body))
        elif method == "PUT" and (upload := re.fullmatch(r"/storage/([^/]*)/(.*)", path)):
            self.run(upload[1]).uploads[upload[2]] = len(body)
        return b"{}"

    def run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run(name))

    def _answer(self, operation: str, given: dict) -> dict:
        match operation:
            case "RunResumeStatus":
                known = self.runs.get(given["name"])
                return {
                    "model": {
                        "id": "2",
                        "name": given["project"],
                        "entity": ENTITY,
                        "bucket": known.describe() if known else None,
                    }
                }
            case "UpsertBucket":
                is_new = given["name"] not in self.runs
                run = self.run(given["name"])
                run.config = given["config"] or run.config
                run.display_name = given["displayName"] or run.display_name or given["name"]
                return {"upsertBucket": {"bucket": run.describe(), "inserted": is_new}}
            case "Viewer" | "GetDefaultEntity":
                return {
                    "viewer": {
                        "id": "5",
                        "entity": ENTITY["name"],
                        "username": "person",
                        "flags": "{}",
                        "teams": {"edges": []},
                    }
                }
            case "CreateRunFiles":
                files = [
                    {"name": name, "uploadUrl": f"{self.url}/storage/{given['run']}/{name}"} for name in given["files"]
                ]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
            case "ArtifactType":
                return {"project": {"artifact": None}}  # no table has this name yet
            case "Run":
                return {"project": {"internalId": "2", "run": self.run(given["name"]).describe()}}
            case "RunFiles":
                return {"project": {"internalId": "2", "run": self.run(given["name"]).list_files()}}
            case "RunHistoryKeys":
                last = max(self.run(given["name"]).steps, default=-1)
                return {"project": {"run": {"historyKeys": {"lastStep": last}}}}
            case "CreateArtifact":  # as if the server had its files already
                artifact = {"id": "3", "state": "COMMITTED", "artifactSequence": {"id": "4", "latestArtifact": None}}
                return {"createArtifact": {"artifact": artifact}}
            case _:
                return {}  # the answer does not matter here


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads, allow_reuse_address = True, True

    def __init__(self, port: int, owner: WandbServer):
        self.owner, self._open = owner, set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self):
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def stop(self) -> None:
        """Refuse new connections, and break open ones."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing, as tests kill clients."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        outage = owner.outage
        if outage in CODES:
            self._reply(CODES[outage], b'{"errors": [{"message": "an outage"}]}')
        elif outage in GARBAGE:
            self._reply(200, GARBAGE[outage])
        elif outage == "hang":
            owner._healthy.wait(600)
            self.close_connection = True
        else:
            answer = owner.answer(self.command, self.path, body)
            if outage == "cut":
                self._head(200, len(answer))
                self.wfile.write(answer[: len(answer) // 2])
                self.close_connection = True
            else:
                self._reply(200, answer)

    do_GET = do_POST = do_PUT = _handle

    def _reply(self, code: int, content: bytes) -> None:
        self._head(code, len(content))
        self.wfile.write(content)

    def _head(self, code: int, size: int) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
