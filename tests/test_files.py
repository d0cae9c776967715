"""atomic_write: the old contents or the new, nothing in between and nothing left over."""

import os

import pytest

from fastconv.files import atomic_write


def test_replaces_the_contents(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    with atomic_write(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_changes_nothing(tmp_path, error):
    path = tmp_path / "weights"
    path.write_bytes(b"before")

    def interrupted():
        with atomic_write(path) as file:
            file.write(b"half")
            file.flush()
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["weights"]


def test_flushes_file_then_renames_then_flushes_folder(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def spy_replace(source, target):
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    with atomic_write(tmp_path / "weights") as file:
        file.write(b"after")
    assert steps == ["file", "rename", "folder"]


def test_the_unfinished_file_lies_in_the_same_folder(tmp_path):
    with atomic_write(tmp_path / "weights") as file:
        assert os.path.dirname(file.name) == os.fspath(tmp_path)


def test_the_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "weights") as file:
            file.write(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


def test_follows_a_symbolic_link(tmp_path):
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"after"


def test_refuses_what_is_not_a_regular_file(tmp_path):
    with pytest.raises(ValueError, match="path must name a regular file"), atomic_write(tmp_path):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe"), atomic_write(tmp_path / "pipe"):
        pass


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "weights"):
        pass
