"""A Hub in one process: enough of its HTTP interface to push datasets, models and Spaces, and to read any revision back.

Nothing leaves the machine. It can hang up in the middle of an upload or of a commit, refuse any other call, and refuses a
card with a wrong header.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml


INITIAL = "0" * 39 + "1"  # of a repository without commits
LARGE = (".parquet", ".safetensors")


class StandInHub(ThreadingHTTPServer):
    """Keeps repositories in memory, as dicts: `files` are those of main, `commits` files by commit, `refs` commits by name.

    `calls` lists (method, path) in order; while `hang_up` is "upload" or "commit", such a request is cut off half-read;
    what matches the pattern `refuse`, such as "POST /api/models/.*/tag/.*", is answered with 403, and with `lost` the same
    is done first, as where an answer gets lost.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.blobs, self.calls, self.hang_up = {}, {}, [], None
        self.refuse, self.lost = None, False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # whoever hangs up is meant to

    def start(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    refused = None

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
        if self.refused:
            payload, status = {"error": "Forbidden"}, 403
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

    def handle_error(self, *arguments):
        pass  # whoever hangs up is meant to

    def handle_call(self):
        path = unquote(self.path.split("?")[0])
        self.server.calls.append((self.command, self.path))
        is_kind = {"upload": path.startswith("/upload/"), "commit": "/commit/" in path}
        if is_kind.get(self.server.hang_up):
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.close_connection = True
            return self.connection.close()
        body = self.body()
        self.refused = self.server.refuse and re.fullmatch(self.server.refuse, f"{self.command} {path}")
        if self.refused and not self.server.lost:
            return self.answer({})
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
        kind = wanted.get("type") or "model"
        if kind == "space" and wanted.get("sdk") is None:
            return self.answer({"error": "a Space needs an sdk"}, 400)
        repository = {"type": kind, "sdk": wanted.get("sdk"), "private": bool(is_private(wanted)), "gated": False}
        self.server.repositories.setdefault(name, {**repository, "files": {}})
        self.answer({"url": f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name})

    def settings(self, body, name):
        wanted, repository = json.loads(body), self.server.repositories[name]
        if is_private(wanted) is not None:
            repository["private"] = is_private(wanted)
        repository["gated"] = wanted.get("gated", repository["gated"])
        self.answer({"private": repository["private"], "gated": repository["gated"]})

    do_PATCH = handle_call

    def validate(self, body):
        content = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            header = yaml.safe_load(found[1]) if found else {}
            problem = None if isinstance(header.get("license", ""), str) else '"license" must be a string'
            # An address, or the path of a file of the repository.
            sources = [entry["src"] for entry in header.get("widget", [])]
            if not all(re.fullmatch(r"https://.+|(?!/)[^:]+", source) for source in sources):
                problem = '"widget[].src" must be an address or a path'
        except yaml.YAMLError as error:
            problem = str(error)
        self.answer({"errors": [{"message": problem}] if problem else [], "warnings": []}, 400 if problem else 200)

    def preupload(self, body, name, revision):
        files = json.loads(body)["files"]
        mode = lambda path: "lfs" if path.endswith(LARGE) else "regular"  # noqa: E731
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

    def commit(self, body, name, revision):
        repository = self.server.repositories[name]
        files = dict(self.files_at(name, revision) or {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header" and value.get("parentCommit") not in (None, self.oid_at(name, revision)):
                return self.answer({"error": "the parent commit is not the last one"}, 412)
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commits = repository.setdefault("commits", {})
        oid = f"{len(commits) + 2:040x}"
        commits[oid] = files
        repository.setdefault("refs", {})[revision] = oid
        if revision == "main":
            repository["files"] = files
        kind = self.path.removeprefix("/api/").split("/")[0]
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}/commit/{oid}"
        self.answer({"commitOid": oid, "commitUrl": url})

    def oid_at(self, name, revision):
        """The commit a branch, tag or commit names; None for none."""
        repository = self.server.repositories[name]
        if revision in repository.get("commits", {}):
            return revision
        return repository.get("refs", {}).get(revision, INITIAL if revision in ("main", INITIAL) else None)

    def files_at(self, name, revision):
        """The files of a revision; None for an unknown one."""
        repository, oid = self.server.repositories[name], self.oid_at(name, revision)
        if oid is None:
            return None
        return repository["files"] if oid == INITIAL else repository["commits"][oid]

    def no_repository(self):
        self.answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def no_revision(self):
        self.answer({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})

    def branch(self, body, name, branch):
        repository = self.server.repositories[name]
        repository.setdefault("refs", {}).setdefault(branch, self.oid_at(name, "main"))
        self.answer({})

    def tag(self, body, name, revision):
        repository, tag = self.server.repositories[name], json.loads(body)["tag"]
        repository.setdefault("tags", set()).add(tag)
        repository.setdefault("refs", {})[tag] = self.oid_at(name, revision)
        self.answer({})

    def references(self, body, name):
        repository = self.server.repositories[name]
        tags, refs = repository.get("tags", set()), repository.get("refs", {})
        listed = {"branches": [], "tags": [], "converts": []}
        for ref, oid in refs.items():
            kind = "tags" if ref in tags else "branches"
            listed[kind].append({"name": ref, "ref": f"refs/{kind}/{ref}", "targetCommit": oid})
        self.answer(listed)

    def info(self, body, name, revision=None):
        if name not in self.server.repositories:
            return self.no_repository()
        repository, files = self.server.repositories[name], self.files_at(name, revision or "main")
        if files is None:
            return self.no_revision()
        return self.answer(
            {
                "id": name,
                "sha": self.oid_at(name, revision or "main"),
                "private": repository["private"],
                "siblings": [{"rfilename": path} for path in files],
                "tags": [],
                "downloads": 0,
            }
        )

    def tree(self, body, name, revision, inside=None):
        files = self.files_at(name, revision)
        if files is None:
            return self.no_revision()
        prefix = f"{inside}/" if inside else ""
        recursive = "recursive=true" in self.path.lower()
        entries = {}
        for path, data in files.items():
            if path.startswith(prefix):
                child, deeper, _ = path.removeprefix(prefix).partition("/")
                child = path.removeprefix(prefix) if recursive else child
                kind = file_entry(path, data) if recursive or not deeper else {"type": "directory", "oid": "1" * 40}
                entries[child] = {"path": prefix + child, **kind}
        self.answer(list(entries.values()))

    def resolve(self, body, name, revision, path):
        if name not in self.server.repositories:
            return self.no_repository()
        files, commit = self.files_at(name, revision), self.oid_at(name, revision)
        if files is None:
            return self.no_revision()
        if path not in files:
            return self.answer({"error": "no file"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data, digest = files[path], hashlib.sha256(files[path]).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "X-Linked-Size": len(data)}
        if limits := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(limits[1]), int(limits[2] or len(data) - 1) + 1
            return self.answer(
                data[start:stop], 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            )
        return self.answer(data, 200, headers)


def file_entry(path, data):
    """A file as a tree lists it: named as git does, large ones by a pointer, with the SHA-256 of their contents."""
    digest = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()
    stored = pointer if path.endswith(LARGE) else data
    oid = hashlib.sha1(f"blob {len(stored)}\0".encode() + stored).hexdigest()
    entry = {"type": "file", "size": len(data), "oid": oid}
    return entry | ({"lfs": {"oid": digest, "size": len(data), "pointerSize": len(pointer)}} if stored != data else {})


def is_private(wanted):
    """Older clients send `private`, newer ones `visibility`."""
    return wanted.get("private", wanted["visibility"] == "private" if "visibility" in wanted else None)


NAME = r"([\w.-]+/[\w.-]+)"
API = rf"/api/(?:datasets|models|spaces)/{NAME}"
GIT = rf"(?:/datasets|/spaces)?/{NAME}"
ROUTES = [
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"{API}/settings", Handler.settings),
    (rf"{API}/preupload/(.+)", Handler.preupload),
    (rf"{API}/commit/(.+)", Handler.commit),
    (rf"{API}/branch/(.+)", Handler.branch),
    (rf"{API}/tag/(.+)", Handler.tag),
    (rf"{API}/refs", Handler.references),
    (rf"{API}/tree/([^/]+)(?:/(.+))?", Handler.tree),
    (rf"{API}(?:/revision/(.+))?", Handler.info),
    (rf"{GIT}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/upload/(\w+)", Handler.upload),
    (rf"{GIT}/resolve/([^/]+)/(.+)", Handler.resolve),
]
