"""Compiles the kernels once per instruction set and links them into the one Cython extension.

Environment:
    FASTCONV_REQUIRE_OPENMP=1  fail, rather than build single-threaded, where OpenMP is missing
    FASTCONV_BUILD_JOBS=n      compile n files at once (default: the processors this process may use)
"""

import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
INCLUDE = Path("fastconv/include")  # the public header
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"]
# Contraction into FMA is wanted; nothing else of -ffast-math is.
KERNEL_FLAGS = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
ISA_FLAGS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma"]
    ISA_FLAGS["avx512"] = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"]


class BuildKernels(build_ext):
    """build_ext that gives every C file its own flags and compiles them in parallel."""

    def build_extension(self, ext):
        openmp = ["-fopenmp"] if self.accepts("-fopenmp", "#include <omp.h>\nint main(void) "
                                              "{ return omp_get_max_threads() < 1; }\n") else []
        if not openmp:
            if os.environ.get("FASTCONV_REQUIRE_OPENMP") == "1":
                raise SystemExit("fastconv: the compiler has no OpenMP (FASTCONV_REQUIRE_OPENMP=1)")
            print("fastconv: the compiler has no OpenMP: building single-threaded", file=sys.stderr)
        isas = {isa: flags for isa, flags in ISA_FLAGS.items()
                if all(self.accepts(flag, "int main(void) { return 0; }\n") for flag in flags)}
        have = [(f"FC_HAVE_{isa.upper()}", "1") for isa in isas]
        macros = [*have, ("FASTCONV_VERSION", f'"{self.distribution.get_version()}"')]

        jobs = [(CSRC / "kernels" / "isa" / f"{isa}.c", KERNEL_FLAGS + flags)
                for isa, flags in isas.items()]
        jobs += [(source, openmp) for folder in ("runtime", "ops", "api")
                 for source in sorted((CSRC / folder).glob("*.c"))]
        headers = [str(p) for folder in (CSRC, INCLUDE) for p in folder.rglob("*.[hi]*") if p.is_file()]

        def compile_one(job):
            source, flags = job
            return self.compiler.compile([str(source)], output_dir=self.build_temp, macros=macros,
                                         include_dirs=[str(INCLUDE)], extra_postargs=FLAGS + flags,
                                         depends=headers)

        workers = int(os.environ.get("FASTCONV_BUILD_JOBS") or len(os.sched_getaffinity(0))
                      if hasattr(os, "sched_getaffinity") else os.cpu_count())
        with ThreadPoolExecutor(workers) as pool:
            ext.extra_objects = [obj for objs in pool.map(compile_one, jobs) for obj in objs]
        ext.extra_link_args = openmp
        super().build_extension(ext)

    def accepts(self, flag, program):
        """Whether the compiler builds and links `program` with `flag`."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder,
                                                extra_postargs=[flag])
                self.compiler.link_executable(objects, "probe", output_dir=folder,
                                              extra_postargs=[flag])
            except Exception:  # setuptools raises a different class per compiler and version
                return False
        return True


setup(
    ext_modules=cythonize(
        [Extension("fastconv._core", ["fastconv/_core.pyx"], include_dirs=[str(CSRC), str(INCLUDE)],
                   depends=[str(p) for folder in (CSRC, INCLUDE) for p in folder.rglob("*") if p.is_file()])],
        language_level=3,
    ),
    cmdclass={"build_ext": BuildKernels},
)
