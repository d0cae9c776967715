"""Files that replace the old one in one step: a reader sees the old contents or the new, never a mixture."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path):
    """Gives a binary file to write; `path` becomes what was written when the ``with`` block ends.

        with atomic_write("weights.safetensors") as file:
            file.write(contents)

    The file is written beside `path` (its own path is ``file.name``), flushed to the disk and renamed over
    `path`, so a crash or a full disk at any moment leaves the old contents. When the block raises, the
    unfinished file is removed and `path` left alone. A symbolic link is followed, not replaced.

    Raises OSError as open() does, and ValueError when `path` exists and is not a regular file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(f"path must name a regular file, got {os.fspath(path)!r}")
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException:  # KeyboardInterrupt too
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder):
    """Makes the rename last: it is an entry of the folder, which is flushed on its own."""
    if os.name == "nt":  # opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
