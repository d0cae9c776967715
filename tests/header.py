"""The public C header, read: its text without comments, and its structures and functions for ctypes."""

import ctypes
import re
from pathlib import Path

import fastconv

PATH = Path(fastconv.get_include()) / "fastconv.h"
_SCALARS = {"size_t": ctypes.c_size_t, "ptrdiff_t": ctypes.c_ssize_t, "int": ctypes.c_int,
            "double": ctypes.c_double}


def _text():
    """Declarations alone, with single spaces."""
    text = re.sub(r"/\*.*?\*/", " ", PATH.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", text)


def version():
    return int(re.search(r"#define FASTCONV_API_VERSION (\d+)", _text())[1])


def enumerators():
    """{enum: {name: value}}."""
    found = re.findall(r"typedef enum (\w+) \{(.*?)\} \1;", _text())
    return {name: {key: int(value) for key, value in re.findall(r"(\w+) = (-?\d+)", body)}
            for name, body in found}


def structures():
    """{struct: [(field, its declaration)]}, in order."""
    found = re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", _text())
    return {name: [(_name(line), line) for line in map(str.strip, body.split(";")) if line]
            for name, body in found}


def exported():
    """Declarations of functions that are not static."""
    return re.findall(r"^const [\w *]+\([^)]*\);", PATH.read_text(), re.M)


def _name(declaration):
    function = re.match(r"[\w *]+\(\*(\w+)\)\(", declaration)
    return function[1] if function else re.search(r"(\w+)(?:\[\d+\])*$", declaration)[1]


def _type(declaration):
    """What ctypes calls the type of a field or of an argument."""
    function = re.match(r"([\w *]+?)\(\*\w+\)\((.*)\)$", declaration)
    if function:
        arguments = [] if function[2] == "void" else [_argument(a.strip()) for a in function[2].split(",")]
        return ctypes.CFUNCTYPE(ctypes.c_char_p if "*" in function[1] else ctypes.c_int, *arguments)
    if "*" in declaration:
        return ctypes.c_void_p
    result = _SCALARS[declaration.split()[0]]
    for extent in reversed(re.findall(r"\[(\d+)\]", declaration)):
        result *= int(extent)
    return result


def _argument(declaration):
    """An array as an argument is a pointer."""
    return ctypes.c_void_p if "[" in declaration else _type(declaration)


def ctypes_structures():
    """{struct: ctypes.Structure}."""
    fields = {name: [(field, _type(line)) for field, line in lines] for name, lines in structures().items()}
    return {name: type(name, (ctypes.Structure,), {"_fields_": fields[name]}) for name in fields}
