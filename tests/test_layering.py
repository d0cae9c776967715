"""The arrows of the architecture: who may include and import whom, and which file alone may do what."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC, PACKAGE = ROOT / "csrc", ROOT / "fastconv"

# ---- C ----------------------------------------------------------------------------------------------

MAY_INCLUDE = {"kernels": {"kernels"}, "runtime": {"kernels", "runtime"},
               "ops": {"kernels", "runtime", "ops"}, "api": {"kernels", "runtime", "ops", "api"}}
C_FILES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h", ".inc"))
# Calls that one file alone may make, and its name; None: no file.
RESERVED = {
    r"#\s*pragma\s+omp|#\s*include\s*<omp\.h>|\bomp_\w+\s*\(": "runtime/threads.c",
    r"\b(?:malloc|calloc|realloc|free|aligned_alloc|posix_memalign)\s*\(": None,
    r"\b(?:mmap|munmap|VirtualAlloc|VirtualFree)\s*\(": "runtime/system.c",
    r"\b(?:alloca|abort|exit|getenv|setenv|printf|fprintf|puts|perror|signal|sigaction)\s*\(": None,
}


def code(path):
    """The text of a C file without comments and strings."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text(), flags=re.S)
    return re.sub(r'(?<!include )"(?:\\.|[^"\\\n])*"', '""', text)


def c_id(path):
    return path.relative_to(CSRC).as_posix()


def test_there_are_c_files():
    assert {path.relative_to(CSRC).parts[0] for path in C_FILES} == set(MAY_INCLUDE)


@pytest.mark.parametrize("path", C_FILES, ids=c_id)
def test_includes_point_downwards(path):
    folder = path.relative_to(CSRC).parts[0]
    for name in re.findall(r'#\s*include\s*"([^"]+)"', code(path)):
        target = (path.parent / name).resolve()
        assert target.is_file(), f'"{name}" is not there'
        included = target.relative_to(CSRC).parts[0]
        assert included in MAY_INCLUDE[folder], f'{folder} must not include "{name}"'


@pytest.mark.parametrize("path", [p for p in C_FILES if c_id(p).startswith("kernels/")], ids=c_id)
def test_kernels_know_arithmetic_only(path):
    allowed = {"stddef.h", "stdint.h", "string.h", "math.h", "float.h", "immintrin.h", "arm_neon.h"}
    assert set(re.findall(r"#\s*include\s*<([^>]+)>", code(path))) <= allowed


@pytest.mark.parametrize("path", C_FILES, ids=c_id)
def test_reserved_calls_are_made_by_one_file(path):
    for pattern, owner in RESERVED.items():
        if c_id(path) != owner:
            assert re.findall(pattern, code(path)) == []


def test_core_includes_runtime_and_ops_only():
    headers = set(re.findall(r'cdef extern from "([^"]+)"', (PACKAGE / "_core.pyx").read_text()))
    for header in headers - {"fastconv.h"}:
        assert (CSRC / header).is_file()
        assert header.split("/")[0] in ("runtime", "ops")


def test_only_the_public_interface_knows_its_header():
    users = {c_id(path) for path in C_FILES if re.search(r"#\s*include\s*<fastconv\.h>", code(path))}
    assert users == {"api/checks.h"}
    assert (PACKAGE / "include" / "fastconv.h").is_file()


# ---- Python -----------------------------------------------------------------------------------------

# What each module of the package may import of it; *: anything but the reference.
MAY_IMPORT = {
    "__init__": {"_core", "grad", "threads"},
    "__main__": {"cli"},
    "_core": set(),
    "threads": {"_core"},
    "functional": {"_core", "checks"},
    "plan": {"_core", "functional"},
    "reference": set(),
    # leaves
    "checks": set(),
    "grad": set(),
    "losses": {"functional"},
    "optim": {"_core", "checks"},
    "init": set(),
    "metrics": set(),
    "augment": set(),
    "files": set(),
    "extras": set(),
    "formats": set(),
    "download": {"files"},
    "data": {"download", "files", "formats"},
    "checkpoint": {"extras", "files"},
    # networks
    "layers": {"_core", "checkpoint", "checks", "functional", "grad", "init", "plan"},
    "models": {"layers", "init"},
    "summary": {"layers"},
    # training
    "plots": {"extras", "files"},
    "progress": {"extras"},
    "train": {"checkpoint", "checks", "data", "extras", "files", "functional", "grad", "layers", "losses",
              "metrics", "optim", "plots", "progress"},
    "challenge": {"augment", "data", "extras", "files", "losses", "models", "optim", "train"},
    "chart": {"files", "init", "models", "summary"},
    "onnx": {"extras", "files", "functional", "init", "layers", "models"},
    "choice": {"_core", "functional", "summary"},
    "profiler": {"_core", "extras", "files", "functional", "layers", "losses", "models", "optim", "plan",
                 "reference", "summary"},
    "sklearn": {"checks", "data", "extras", "functional", "grad", "layers", "losses", "optim", "train"},
    "jax": {"checks", "extras", "functional"},
    "torch": {"_core", "checks", "extras", "functional", "threads"},
    "cli": {"*"},
}
PYTHON_FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")])
OPTIONAL = {"safetensors", "tqdm", "matplotlib", "torch", "sklearn", "onnx", "onnxruntime", "jax", "mpi4py",
            "tensorboardX", "threadpoolctl", "rich"}


def python_id(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """(module, at the top of the file?) for every import, relative ones as fastconv.<...>."""
    package = ["fastconv", *path.relative_to(PACKAGE).parent.parts]
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "fastconv":
                yield from ((f"fastconv.{alias.name}", top) for alias in node.names)
            else:
                yield name, top


def owner(path):
    """The module of MAY_IMPORT that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_has_its_place():
    assert {owner(path) for path in PYTHON_FILES} <= {*MAY_IMPORT, "datasets"}


@pytest.mark.parametrize("path", [p for p in PYTHON_FILES if p.suffix == ".py"], ids=python_id)
def test_imports_point_downwards(path):
    module = owner(path)
    for name, _ in imports(path):
        package, _, target = name.partition(".")
        target = target.split(".")[0]
        if package != "fastconv" or target == module or target not in MAY_IMPORT:
            continue
        assert {target, "*"} & MAY_IMPORT.get(module, set()), f"{module} must not import {target}"
        assert target != "reference" or module == "profiler", "the reference is for tests and comparisons"


@pytest.mark.parametrize("path", [p for p in PYTHON_FILES if p.suffix == ".py"], ids=python_id)
def test_optional_packages_are_imported_on_use(path):
    for name, top in imports(path):
        root = name.split(".")[0]
        if root in OPTIONAL:
            assert not top, f"{name} must be imported inside the function that needs it"
        else:
            assert root in {"fastconv", "numpy"} | sys.stdlib_module_names


def test_the_reference_uses_numpy_alone():
    assert {name for name, _ in imports(PACKAGE / "reference.py")} == {"numpy"}


SOURCES = sorted(path for folder in ("fastconv", "bench", "tests") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, PACKAGE / "_core.pyx", ROOT / "setup.py"], ids=python_id)
def test_nothing_unpickles(path):
    """Loading a file must not run code: neither the modules that do, nor NumPy's switch."""
    text = path.read_text()
    modules = "|".join(("pick" "le", "cPick" "le", "dill", "joblib", "shelve", "marshal", "cloudpick" "le"))
    assert not re.search(rf"^\s*(?:import|from|cimport)\s+(?:{modules})\b", text, re.M)
    assert "allow_pick" "le" not in text
    assert not re.search(r"\btorch\.(?:load|save)\b(?!\|)", text)
