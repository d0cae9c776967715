"""The binary interface of fastconv.h against its snapshot, tests/abi.txt: it only grows, and not unannounced.

An addition is announced in three steps: append it (to the table, to a structure, to an enumeration), raise
FASTCONV_API_VERSION in fastconv.h, and write the snapshot anew with `python tests/test_abi.py`, which refuses
changes of what was there.
"""

import ctypes
import sys
from pathlib import Path

import header
import pytest

import fastconv

SNAPSHOT = Path(__file__).with_name("abi.txt")
ANNOUNCE = "an addition must be announced: raise FASTCONV_API_VERSION, then run python tests/test_abi.py"
pytestmark = pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the snapshot is for 64 bits")


def interface():
    """Lines of text: enumerations, structures with offsets, functions with their types."""
    lines = [f"version {header.version()}"]
    for name, values in header.enumerators().items():
        lines += ["", f"enum {name}", *(f"{value:>6}  {key}" for key, value in values.items())]
    for name, struct in header.ctypes_structures().items():
        rows = [f"{getattr(struct, field).offset:>6}  {line}" for field, line in header.structures()[name]]
        lines += ["", f"struct {name}", *rows, f"{ctypes.sizeof(struct):>6}  bytes"]
    return [*lines, "", "exported", *(f"        {line}" for line in header.exported())]


def kept(lines):
    """What no later version may change: enumerators, fields and functions, each with its section."""
    section, facts = "", set()
    for line in lines[1:]:
        if line.startswith(" "):
            if not line.endswith("  bytes"):
                facts.add((section, line))
        else:
            section = line
    return facts


def lost(old, new):
    return sorted(" ".join(f"{section}: {line}".split()) for section, line in kept(old) - kept(new))


def test_the_interface_is_that_of_the_snapshot():
    now, then = interface(), SNAPSHOT.read_text().splitlines()
    assert not lost(then, now), "programs compiled before would break: what was there must stay"
    assert now == then, ANNOUNCE


def test_the_snapshot_tells_changes_from_additions():
    def of(name, *fields):
        return ["version 2", "", f"struct {name}", *fields, "    16  bytes"]

    then = of("s", "     0  int a", "     4  int b")
    assert not lost(then, of("s", "     0  int a", "     4  int b", "     8  int c"))
    assert lost(then, of("s", "     0  int b", "     4  int a")) == ["struct s: 0 int a", "struct s: 4 int b"]
    assert lost(then, of("s", "     0  long a", "     4  int b")) == ["struct s: 0 int a"]
    assert len(lost(then, of("t", "     0  int a", "     4  int b"))) == 2


def test_the_library_has_the_table_of_the_header():
    library = ctypes.CDLL(fastconv._core.__file__)
    library.fastconv_get_api.restype = ctypes.c_void_p
    api = header.ctypes_structures()["fastconv_api"]
    table = api.from_address(library.fastconv_get_api(header.version()))
    assert (table.struct_size, table.version) == (ctypes.sizeof(api), header.version())
    words = (ctypes.c_void_p * (ctypes.sizeof(api) // 8)).from_buffer(table)
    assert all(words), "a function is missing in the table"
    assert len(set(words[2:])) == len(words) - 2, "two functions of the table are the same"
    assert library.fastconv_get_api(header.version() + 1) is None


def main():
    now = interface()
    if SNAPSHOT.exists():
        then = SNAPSHOT.read_text().splitlines()
        broken = lost(then, now)
        if broken:
            sys.exit("fastconv.h changes what was there:\n" + "\n".join(broken))
        if now != then and int(then[0].split()[1]) >= header.version():
            sys.exit(ANNOUNCE)
    SNAPSHOT.write_text("\n".join(now) + "\n")


if __name__ == "__main__":
    main()
