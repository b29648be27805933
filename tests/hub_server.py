"""A Hugging Face hub on this machine, as far as downloads need one: folders as repositories, each with revisions.

Below a root lie models/<owner>/<name>/<revision>/… and datasets/<owner>/<name>/<revision>/…; the commit of a revision is a
digest of its name, and names it as well.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+))?(?:/(.*))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


def commit(revision: str) -> str:
    """40 hex digits for the name of a revision."""
    return hashlib.sha1(revision.encode()).hexdigest()


class Hub:
    """Serves `root` while it is entered; `url` is its address, `asked` the paths that were asked for."""

    def __init__(self, root: Path):
        self.root, self.asked = Path(root), []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home) -> dict:
        """What a process needs to take this hub for the one, with a cache of its own below `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def folder(self, kind: str, repository: str, revision: str) -> Path | None:
        """The folder of a repository at a revision or commit; None where there is none."""
        found = self.root / kind / repository
        names = [path.name for path in found.iterdir()] if found.is_dir() else []
        name = next((name for name in names if revision in (name, commit(name))), None)
        return found / name if name else None


class Handler(BaseHTTPRequestHandler):
    """Answers to huggingface_hub's requests for facts and files."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self):
        """Facts of a file, without it."""
        self.answer()

    def do_GET(self):
        """A file, or facts of a repository."""
        self.answer()

    def do_POST(self):
        """Facts of the named paths."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(json.loads(body or b"{}").get("paths"))

    def log_message(self, *_):
        """Nothing: tests read `asked`."""

    def answer(self, paths=None):
        """Send what a request asks for, or the hub's own words for what is missing."""
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        if found := API.fullmatch(path):
            kind, repository, what, revision, below = found.groups()
            folder = self.hub.folder(kind, repository, revision or "main")
            if folder is None:
                return self.missing(kind, repository)
            if what in ("tree", "paths-info"):
                return self.json(self.entries(folder, below or "", paths, recursive="recursive=true" in self.path.lower()))
            files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
            facts = {"id": repository, "sha": commit(folder.name), "private": False, "tags": [], "downloads": 0, "likes": 0}
            return self.json(
                facts | {"siblings": [{"rfilename": name} for name in files], "lastModified": "2026-01-01T00:00:00.000Z"}
            )
        if found := FILE.fullmatch(path):
            kind, repository, revision, name = found.groups()
            kind = "datasets" if kind else "models"
            folder = self.hub.folder(kind, repository, revision)
            if folder is None:
                return self.missing(kind, repository)
            return self.file(folder, name)
        return self.nothing("EntryNotFound")

    def entries(self, folder: Path, below: str, paths, recursive: bool) -> list[dict]:
        """Files and folders of a repository, as its tree tells them."""
        if paths is not None:
            chosen = [folder / name for name in ([paths] if isinstance(paths, str) else paths)]
        else:
            chosen = sorted((folder / below).rglob("*") if recursive else (folder / below).glob("*"))
        found = []
        for path in chosen:
            entry = {"path": path.relative_to(folder).as_posix(), "oid": commit(path.name)}
            if path.is_file():
                found.append(entry | {"type": "file", "size": path.stat().st_size})
            elif path.is_dir():
                found.append(entry | {"type": "directory", "size": 0})
        return found

    def file(self, folder: Path, name: str):
        """A file or the part of it that is asked for, with its commit and tag."""
        path = folder / name
        if not path.is_file():
            return self.nothing("EntryNotFound", {"X-Repo-Commit": commit(folder.name)})
        content = path.read_bytes()
        facts = {"X-Repo-Commit": commit(folder.name), "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not part:
            return self.send(200, content, facts)
        first, last = int(part[1]), int(part[2] or len(content) - 1)
        facts["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.send(206, content[first : last + 1], facts)

    def missing(self, kind: str, repository: str):
        """No such repository, or no such revision of it."""
        there = (self.hub.root / kind / repository).is_dir()
        self.nothing("RevisionNotFound" if there else "RepoNotFound")

    def nothing(self, code: str, more=()):
        """404, with the hub's word for it."""
        self.send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **dict(more)})

    def json(self, content):
        """A JSON answer."""
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict):
        """Status, headers and, unless only they are asked for, content."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
