"""Downloads of data sets: from the first mirror that answers, verified before the file gets its name.

Only HTTP and HTTPS; size and SHA-256 are known beforehand, so a mirror needs no trust and can send no more
than it should. An interrupted download leaves nothing behind.
"""

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from .files import atomic_write

_CHUNK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 20  # to connect, and between two reads


class DownloadError(RuntimeError):
    """No mirror gave the file; the message says why, mirror by mirror."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that never changes, and where it can be had: each mirror is a URL that ends before its name."""

    name: str
    size: int  # bytes
    sha256: str
    mirrors: tuple[str, ...]


def download(remote, folder, progress=True):
    """Downloads `remote` into `folder`, which is made where missing; returns the path of the file.

    progress: show a bar (on a terminal, with tqdm installed; a line without it). Raises DownloadError where
    no mirror gives a file of the right size and checksum, OSError where it cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in remote.mirrors:
        url = mirror + remote.name
        try:
            with atomic_write(folder / remote.name) as file, _bar(remote, progress) as bar:
                for chunk in _verified_chunks(url, remote):
                    file.write(chunk)
                    if bar:
                        bar.update(len(chunk))
            return folder / remote.name
        except DownloadError as error:
            failures.append(f"{url}: {error}")
    raise DownloadError("\n".join(failures))


def verify(path, remote):
    """Raises ValueError unless the file at `path` has the size and checksum of `remote`."""
    size = Path(path).stat().st_size
    if size != remote.size:
        raise ValueError(f"{path}: {size} bytes, but {remote.name} has {remote.size}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        raise ValueError(f"{path}: its SHA-256 is {found}, that of {remote.name} {remote.sha256}")


def _verified_chunks(url, remote):
    """The bytes at `url`; raises DownloadError, at the latest after the last chunk, where they are wrong."""
    digest = hashlib.sha256()
    received = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "fastconv"})
        with _opener().open(request, timeout=_TIMEOUT_SECONDS) as response:
            stated = response.headers.get("Content-Length", str(remote.size))
            if stated != str(remote.size):
                raise DownloadError(f"offers {stated} bytes, not {remote.size}")
            # One byte more than expected is enough to know that there are too many.
            while chunk := response.read(min(_CHUNK_BYTES, remote.size + 1 - received)):
                received += len(chunk)
                digest.update(chunk)
                yield chunk
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise DownloadError(error) from error
    if received > remote.size:
        raise DownloadError(f"sent more than the {remote.size} bytes that were due")
    if received < remote.size:
        raise DownloadError(f"sent {received} of {remote.size} bytes")
    if digest.hexdigest() != remote.sha256:
        raise DownloadError(f"the SHA-256 is {digest.hexdigest()}, not {remote.sha256}")


def _opener():
    """urllib's opener without file: and ftp:, which it would otherwise take, from a mirror's redirect too."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
                    urllib.request.HTTPRedirectHandler, urllib.request.HTTPDefaultErrorHandler,
                    urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler):
        opener.add_handler(handler())
    return opener


def _bar(remote, progress):
    if not progress:
        return nullcontext()
    try:
        from tqdm import tqdm
    except ImportError:
        print(f"downloading {remote.name} ({remote.size / 1e6:.1f} MB)", file=sys.stderr)
        return nullcontext()
    # disable=None: no bar where the output is not a terminal
    return tqdm(total=remote.size, desc=remote.name, unit="B", unit_scale=True, disable=None)
