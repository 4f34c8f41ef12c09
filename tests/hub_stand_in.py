"""A Hub in one process: enough of its HTTP interface to push a dataset or a model and read it back. Nothing leaves the machine."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


COMMIT = "0" * 39 + "1"


class StandInHub(ThreadingHTTPServer):
    """Keeps repositories in memory; `calls` lists (method, path) in order."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.blobs, self.calls = {}, {}, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def start(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, payload, status=200, headers=None):
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(data),
            **(headers or {}),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_call(self):
        self.server.calls.append((self.command, self.path))
        body, path = self.body(), self.path.split("?")[0]
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                return method(self, body, *match.groups())
        return self.answer({"error": f"no route {path}"}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = handle_call

    def whoami(self, body):
        self.answer({"name": "tester", "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    def create(self, body):
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        private = is_private(wanted)
        self.server.repositories.setdefault(name, {"private": bool(private), "gated": False, "files": {}})
        kind = "datasets/" if wanted.get("type") == "dataset" else ""
        self.answer({"url": f"{self.server.url}/{kind}{name}", "name": name})

    def settings(self, body, name):
        wanted, repository = json.loads(body), self.server.repositories[name]
        if is_private(wanted) is not None:
            repository["private"] = is_private(wanted)
        repository["gated"] = wanted.get("gated", repository["gated"])
        self.answer({"private": repository["private"], "gated": repository["gated"]})

    do_PATCH = handle_call

    def validate(self, body):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, body, name):
        files = json.loads(body)["files"]
        mode = lambda path: "lfs" if path.endswith((".parquet", ".safetensors")) else "regular"  # noqa: E731
        self.answer(
            {"files": [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files]}
        )

    def batch(self, body, name):
        objects = json.loads(body)["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.server.url}/upload/{item['oid']}"}}
        self.answer(
            {"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"}
        )

    def upload(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self.answer({})

    def commit(self, body, name):
        files = self.server.repositories[name]["files"]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        kind = "datasets/" if "/datasets/" in self.path else ""
        self.answer({"commitOid": COMMIT, "commitUrl": f"{self.server.url}/{kind}{name}/commit/{COMMIT}"})

    def info(self, body, name):
        if name not in self.server.repositories:
            return self.answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        repository = self.server.repositories[name]
        files = [{"rfilename": path} for path in repository["files"]]
        return self.answer(
            {
                "id": name,
                "sha": COMMIT,
                "private": repository["private"],
                "siblings": files,
                "tags": [],
                "downloads": 0,
            }
        )

    def tree(self, body, name):
        files = self.server.repositories[name]["files"]
        inside = re.search(r"/tree/[^/?]+/([^?]+)", self.path)
        prefix = f"{inside[1]}/" if inside else ""
        entries = {}
        for path, data in files.items():
            if path.startswith(prefix):
                child, deeper, _ = path.removeprefix(prefix).partition("/")
                kind = {"type": "directory"} if deeper else {"type": "file", "size": len(data)}
                entries[child] = {"path": prefix + child, "oid": "1" * 40, **kind}
        self.answer(list(entries.values()))

    def resolve(self, body, name, path):
        files = self.server.repositories[name]["files"]
        if path not in files:
            return self.answer({"error": "no file"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        data, digest = files[path], hashlib.sha256(files[path]).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "X-Linked-Size": len(data)}
        if limits := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(limits[1]), int(limits[2] or len(data) - 1) + 1
            return self.answer(
                data[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            )
        return self.answer(data, 200, headers)


def is_private(wanted):
    """Older clients send `private`, newer ones `visibility`."""
    return wanted.get("private", wanted["visibility"] == "private" if "visibility" in wanted else None)


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/(?:datasets|models)/{NAME}/settings", Handler.settings),
    (rf"/api/(?:datasets|models)/{NAME}/preupload/.+", Handler.preupload),
    (rf"/api/(?:datasets|models)/{NAME}/commit/.+", Handler.commit),
    (rf"/api/(?:datasets|models)/{NAME}/tree/.+", Handler.tree),
    (rf"/api/(?:datasets|models)/{NAME}(?:/revision/.+)?", Handler.info),
    (rf"(?:/datasets)?/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/upload/(\w+)", Handler.upload),
    (rf"(?:/datasets)?/{NAME}/resolve/[^/]+/(.+)", Handler.resolve),
]
