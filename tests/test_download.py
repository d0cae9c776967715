"""Downloads from a server in this process: verified before they replace anything, bounded, HTTP only."""

import hashlib
import io
import os
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fastconv.download import DownloadError, RemoteFile, download, verify

CONTENTS = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Mirrors(BaseHTTPRequestHandler):
    """The first part of the path says how the server behaves."""

    def do_GET(self):
        self.server.requests.append(self.path)
        getattr(self, self.path.split("/")[1])()

    def reply(self, body, length=None, status=200, **headers):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def good(self):
        self.reply(CONTENTS, len(CONTENTS))

    def unsized(self):
        self.reply(CONTENTS)

    def wrong(self):
        self.reply(CONTENTS[:-1] + b"x", len(CONTENTS))

    def truncated(self):
        self.reply(CONTENTS[:1000], len(CONTENTS))

    def large(self):
        self.reply(b"", len(CONTENTS) + 1)

    def endless(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(CONTENTS)
                self.server.sent += len(CONTENTS)
        except OSError:
            pass

    def missing(self):
        self.reply(b"", 0, status=404)

    def redirect(self):
        self.reply(b"", 0, status=302, Location="/good/file.gz")

    def local(self):
        self.reply(b"", 0, status=302, Location="file:///etc/hostname")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirrors) as server:
        server.requests, server.sent = [], 0
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(server):
    """A file on mirrors that behave as named."""
    def make(*behaviours):
        base = f"http://127.0.0.1:{server.server_port}"
        return RemoteFile("file.gz", len(CONTENTS), SHA256, tuple(f"{base}/{name}/" for name in behaviours))
    return make


@pytest.mark.parametrize("behaviour", ["good", "unsized", "redirect"])
def test_downloads(remote, tmp_path, behaviour):
    path = download(remote(behaviour), tmp_path / "made" / "as needed", progress=False)
    assert path == tmp_path / "made" / "as needed" / "file.gz"
    assert path.read_bytes() == CONTENTS


@pytest.mark.parametrize(("behaviour", "reason"), [
    ("wrong", "the SHA-256 is [0-9a-f]{64}, not " + SHA256),
    ("truncated", "sent 1000 of 256000 bytes"),
    ("large", "offers 256001 bytes, not 256000"),
    ("endless", "sent more than the 256000 bytes"),
    ("missing", "404"),
    ("local", "file:///etc/hostname"),
])
def test_a_bad_mirror_changes_nothing(remote, tmp_path, behaviour, reason):
    (tmp_path / "file.gz").write_bytes(b"before")
    with pytest.raises(DownloadError, match=f"/{behaviour}/file.gz: .*{reason}"):
        download(remote(behaviour), tmp_path, progress=False)
    assert (tmp_path / "file.gz").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file.gz"]


def test_an_endless_reply_is_not_read_to_the_end(remote, server, tmp_path):
    with pytest.raises(DownloadError):
        download(remote("endless"), tmp_path, progress=False)
    assert server.sent < 100 * len(CONTENTS)  # what fits into the buffers of the connection


def test_goes_on_to_the_next_mirror(remote, server, tmp_path):
    path = download(remote("wrong", "missing", "good", "unsized"), tmp_path, progress=False)
    assert path.read_bytes() == CONTENTS
    assert [request.split("/")[1] for request in server.requests] == ["wrong", "missing", "good"]


@pytest.mark.parametrize("mirror", ["file://{}/", "ftp://127.0.0.1/", "data:,", "{}/"])
def test_takes_http_alone(tmp_path, mirror):
    (tmp_path / "file.gz").write_bytes(CONTENTS)
    remote = RemoteFile("file.gz", len(CONTENTS), SHA256, (mirror.format(tmp_path),))
    with pytest.raises(DownloadError, match="unknown url type"):
        download(remote, tmp_path / "to", progress=False)


def test_names_every_mirror_when_none_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    mirrors = ("http://127.0.0.1:1/a/", "http://127.0.0.1:1/b/")
    with pytest.raises(DownloadError, match=r"1/a/file.gz: .*refused.*\n.*1/b/file.gz: .*refused"):
        download(RemoteFile("file.gz", 1, SHA256, mirrors), tmp_path, progress=False)


def test_progress_bar(remote, tmp_path, monkeypatch):
    steps = []

    class Bar(io.StringIO):
        def update(self, count):
            steps.append(count)

    def tqdm(total, **options):
        assert total == len(CONTENTS)
        return Bar()

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=tqdm))
    download(remote("good"), tmp_path)
    assert sum(steps) == len(CONTENTS)
    assert len(steps) > 1


def test_without_tqdm_a_line_says_what_is_downloaded(remote, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert download(remote("good"), tmp_path).read_bytes() == CONTENTS
    assert capsys.readouterr().err == "downloading file.gz (0.3 MB)\n"


def test_verify(tmp_path):
    remote = RemoteFile("file.gz", len(CONTENTS), SHA256, ())
    path = tmp_path / "file.gz"
    path.write_bytes(CONTENTS)
    verify(path, remote)
    path.write_bytes(CONTENTS[1:])
    with pytest.raises(ValueError, match=r"255999 bytes, but file\.gz has 256000"):
        verify(path, remote)
    path.write_bytes(CONTENTS[1:] + b"x")
    with pytest.raises(ValueError, match="its SHA-256 is"):
        verify(path, remote)
