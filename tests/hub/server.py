"""A Hub on this machine: what huggingface_hub asks of the real one, answered from memory, with troubles on demand."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
LFS = (".safetensors",)
PAGE = 5  # entries of a page of a listing


def sha1(*parts):
    return hashlib.sha1(b"|".join(parts)).hexdigest()


class Repository:
    """Commits of whole trees, and what branches are at."""

    def __init__(self, private=False):
        first = sha1(b"initial commit")
        self.private, self.gated = private, False
        self.commits = {first: {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}}
        self.branches = {"main": first}

    def resolve(self, revision):
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision="main"):
        return self.commits[self.resolve(revision)]

    def commit(self, branch, files):
        head = sha1(self.branches[branch].encode(), *(path.encode() + content for path, content in files.items()))
        self.commits[head] = files
        self.branches[branch] = head
        return head


class Hub(ThreadingHTTPServer):
    """Repositories by name.

    ``troubles`` are what happens to the coming downloads of files' content, ``upload_troubles`` to uploads, in order:
    a status, or one of ``break`` (half of it), ``wrong`` (other bytes), ``long`` (more than said), ``endless``,
    ``wait`` (half of it until ``go_on`` is set).
    """

    daemon_threads = True
    token = "hf_writes"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"http://localhost:{self.server_port}"  # another host, to which large files are redirected
        self.repositories, self.blobs = {}, {}
        self.renamed = {}  # old names, and where requests are redirected to
        self.troubles, self.upload_troubles = [], []
        self.asked = []  # (method, path, Range header)
        self.leaked = []  # paths on the other host that a token was sent to
        self.waits, self.go_on = threading.Event(), threading.Event()  # of an answer that waits

    def handle_error(self, request, address):
        """Clients that go away are part of the tests."""

    def downloads(self):
        """Paths whose content was asked for, large files by their SHA-256."""
        return [path for method, path, _ in self.asked if method == "GET" and re.match(r"/cdn/|/.*/resolve/", path)]


class Refused(Exception):
    def __init__(self, status, code=None, message=None):
        super().__init__(status)
        self.status, self.code, self.said = status, code, message


class Answer(BaseHTTPRequestHandler):
    """HTTP/1.0: the connection ends with the answer."""

    def do_GET(self):
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_request(self):
        hub, split = self.server, urlsplit(self.path)
        hub.asked.append((self.command, self.path, self.headers["Range"]))
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.query = parse_qs(split.query)
        path = split.path
        if path.startswith("/cdn/") and self.headers["Authorization"]:
            hub.leaked.append(path)
        for old, new in hub.renamed.items():
            if f"/{old}/" in self.path:
                return self.answer(307, b"", {"Location": self.path.replace(old, new, 1)})
        try:
            for pattern, answer in ROUTES:
                match = re.fullmatch(pattern, f"{self.command} {path}")
                if match:
                    return answer(self, *map(unquote, match.groups()))
            raise Refused(404)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.said}
            self.answer(refused.status, b'{"error": "no"}', {key: value for key, value in headers.items() if value})

    def answer(self, status, content=b"", headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value, headers=None):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def log_message(self, *_):
        """Say nothing."""

    def writes(self):
        return self.headers["Authorization"] == f"Bearer {self.server.token}"

    def repository(self, name, revision="main", *, write=False):
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.writes()):
            raise Refused(404 if self.writes() else 401, "RepoNotFound", "Repository not found")
        if found.gated and not self.writes():
            raise Refused(403, "GatedRepo", "Access is restricted")
        if write and not self.writes():
            raise Refused(403, None, "Forbidden: pass a token with write access")
        commit = found.resolve(revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found, commit

    # what is asked

    def create(self):
        about = json.loads(self.body)
        name = f"{about.get('organization') or 'user'}/{about['name']}"
        if not self.writes():
            raise Refused(401, None, "Invalid username or password.")
        if name in self.server.repositories:
            there = {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}
            self.answer(409, json.dumps(there).encode())
            return
        private = about.get("visibility") == "private" or about.get("private") is True
        self.server.repositories[name] = Repository(private)
        self.json({"url": f"{self.server.url}/{name}", "name": name})

    def validate(self):
        """The checks of the real one that could strike here."""
        text = json.loads(self.body)["content"]
        found = yaml.safe_load(re.match(r"---\n(.*?)---\n", text, re.DOTALL)[1])
        wrong = [f'"{key}" with value "{one}" is not valid.' for key in ("base_model", "datasets")
                 for one in ([found.get(key, [])] if isinstance(found.get(key), str) else found.get(key, []))
                 if not ID.fullmatch(one)]  # fmt: skip
        for index in found.get("model-index", []):
            for result in index["results"]:
                config = result["dataset"].get("config")
                wrong += [] if isinstance(config, str) else ['"dataset.config" must be a string']
        if wrong:
            self.answer(400, json.dumps({"errors": [{"message": one} for one in wrong]}).encode())
        else:
            self.json({"errors": [], "warnings": []})

    def about(self, name, revision="main"):
        found, commit = self.repository(name, revision)
        siblings = [{"rfilename": path} for path in found.files(commit)]
        self.json({"id": name, "sha": commit, "private": found.private, "tags": [], "siblings": siblings})

    def branch(self, name, branch):
        found, commit = self.repository(name, write=True)
        if branch in found.branches:
            raise Refused(409, None, "Reference already exists")
        found.branches[branch] = commit
        self.json({})

    def entries(self, files, paths):
        for path in paths:
            if path in files:
                yield {"type": "file", "path": path, "size": len(files[path]), "oid": sha1(files[path])}

    def tree(self, name, revision):
        found, commit = self.repository(name, revision)
        start = int(self.query.get("cursor", ["0"])[0])
        files = found.files(commit)
        some = sorted(files)[start : start + PAGE]
        after = f"{self.server.url}/api/models/{name}/tree/{quote(revision, safe='')}?cursor={start + PAGE}"
        more = {"Link": f'<{after}>; rel="next"'} if start + PAGE < len(files) else {}
        self.json(list(self.entries(files, some)), more)

    def paths_info(self, name, revision):
        found, commit = self.repository(name, revision)
        files = found.files(commit)
        self.json(list(self.entries(files, parse_qs(self.body.decode())["paths"])))

    def preupload(self, name, revision):
        found, commit = self.repository(name, revision, write=True)
        files = found.files(commit)

        def about(file):
            old, lfs = files.get(file["path"]), file["path"].endswith(LFS)
            oid = None if old is None else hashlib.sha256(old).hexdigest() if lfs else git_oid(old)
            return {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}

        self.json({"files": [about(file) for file in json.loads(self.body)["files"]]})

    def lfs_batch(self, name):
        self.repository(name, write=True)
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{wanted['oid']}"}
            actions = {} if wanted["oid"] in self.server.blobs else {"actions": {"upload": upload}}
            answers.append({"oid": wanted["oid"], "size": wanted["size"], **actions})
        self.json({"transfer": "basic", "objects": answers})

    def lfs_upload(self, oid):
        self.trouble(self.server.upload_troubles)
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400)
        self.server.blobs[oid] = self.body
        self.answer(200)

    def commit(self, name, branch):
        found, head = self.repository(name, branch, write=True)
        self.trouble(self.server.upload_troubles)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(found.files(head))
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", head) != head:
                raise Refused(412, None, "A commit has happened since")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        oid = found.commit(branch, files)
        self.json({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def trouble(self, troubles):
        trouble = troubles.pop(0) if troubles else None
        if isinstance(trouble, int):
            raise Refused(trouble)
        return trouble

    def content(self, name, revision, path):
        found, commit = self.repository(name, revision)
        if path not in found.files(commit):
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = found.files(commit)[path]
        oid = hashlib.sha256(content).hexdigest() if path.endswith(LFS) else git_oid(content)
        about = {"X-Repo-Commit": commit, "ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        if path.endswith(LFS):
            self.server.blobs.setdefault(oid, content)
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            self.answer(302, b"", {**about, **linked, "Location": f"{self.server.elsewhere}/cdn/{oid}"})
            return
        self.bytes(content, about)

    def cdn(self, oid):
        self.bytes(self.server.blobs[oid], {})

    def bytes(self, content, about):
        if self.command == "HEAD":
            self.answer(200, content, about)
            return
        trouble, status = self.trouble(self.server.troubles), 200
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if ranged:
            start, whole = int(ranged[1]), len(content)
            about = {**about, "Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
            content, status = content[start:], 206
        if trouble == "wrong":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(status)
        if trouble not in ("long", "endless"):
            about = {**about, "Content-Length": str(len(content))}
        for key, value in about.items():
            self.send_header(key, value)
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half] if trouble in ("break", "wait") else content)
        if trouble == "wait":
            self.server.waits.set()
            self.server.go_on.wait()
            self.wfile.write(content[half:])
        if trouble == "long":
            self.wfile.write(b"more")
        while trouble == "endless":  # until the client goes
            self.wfile.write(bytes(2**20))


def git_oid(content):
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


ROUTES = (
    (r"POST /api/repos/create", Answer.create),
    (r"POST /api/validate-yaml", Answer.validate),
    (r"GET /api/models/([^/]+/[^/]+)", Answer.about),
    (r"GET /api/models/([^/]+/[^/]+)/revision/([^/]+)", Answer.about),
    (r"POST /api/models/([^/]+/[^/]+)/branch/([^/]+)", Answer.branch),
    (r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)", Answer.tree),
    (r"POST /api/models/([^/]+/[^/]+)/paths-info/([^/]+)", Answer.paths_info),
    (r"POST /api/models/([^/]+/[^/]+)/preupload/([^/]+)", Answer.preupload),
    (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", Answer.lfs_batch),
    (r"PUT /lfs/(\w+)", Answer.lfs_upload),
    (r"POST /api/models/([^/]+/[^/]+)/commit/([^/]+)", Answer.commit),
    (r"(?:HEAD|GET) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Answer.content),
    (r"(?:HEAD|GET) /cdn/(\w+)", Answer.cdn),
)
