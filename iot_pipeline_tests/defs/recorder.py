"""A real server on loopback that records what comes, and answers MLflow's tracking API as its server does."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MLFLOW = "/api/2.0/mlflow/"


@dataclass
class Recorder:
    """Requests so far (path, headers, body), and the experiments and runs that they made."""

    url: str = ""
    status: int = 200
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def bodies(self, end: str) -> list[Any]:
        return [body for path, _, body in self.requests if path.endswith(end)]

    def text(self) -> str:
        """Everything that came, headers too."""
        return json.dumps(self.requests)

    def answer(self, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if self.status != 200 or not path.startswith(MLFLOW):
            return self.status, {}
        name = path.removeprefix(MLFLOW)
        if name == "experiments/get-by-name":
            wanted = query["experiment_name"][0]
            if wanted not in self.experiments:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
            found = {"experiment_id": self.experiments[wanted], "name": wanted, "lifecycle_stage": "active"}
            return 200, {"experiment": found}
        if name == "experiments/create":
            self.experiments[body["name"]] = str(len(self.experiments) + 1)
            return 200, {"experiment_id": self.experiments[body["name"]]}
        if name == "runs/get":
            return 200, {"run": self.runs[query["run_id"][0]]}
        return 200, self._runs(name, body)

    def _runs(self, name: str, body: Any) -> Any:
        if name == "runs/search":
            return {"runs": [run for run in self.runs.values() if _matches(run, body.get("filter", ""))]}
        if name == "runs/create":
            run_id = f"run{len(self.runs) + 1}"
            info = {"run_id": run_id, "run_uuid": run_id, "status": "RUNNING", "experiment_id": body["experiment_id"]}
            self.runs[run_id] = {"info": info, "data": {"tags": body["tags"], "metrics": [], "params": []}}
            return {"run": self.runs[run_id]}
        run = self.runs[body["run_id"]]
        if name == "runs/log-batch":
            for kind in ("metrics", "params", "tags"):
                run["data"][kind] += body.get(kind, [])
            return {}
        run["info"]["status"] = body.get("status", "RUNNING")
        return {"run_info": run["info"]}


def _matches(run: dict[str, Any], asked: str) -> bool:
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    wanted = (part.split(" = ") for part in asked.split(" and "))
    return all(tags.get(key.removeprefix("tags.").strip("`")) == value.strip("'") for key, value in wanted)


@contextlib.contextmanager
def recording(location: str = "") -> Iterator[Recorder]:
    """Serve on loopback until the end of the block; with `location` every answer is a redirect to it."""
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            told = json.loads(body) if body else None
            recorder.requests.append((parts.path, dict(self.headers), told))
            status, found = recorder.answer(parts.path, parse_qs(parts.query), told)
            self.send_response(307 if location else status)
            if location:
                self.send_header("Location", location + self.path)
            content = json.dumps(found).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    recorder.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
