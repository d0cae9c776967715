"""Compiles the kernels once per instruction set and links them into the one Cython extension.

Environment:
    FASTCONV_REQUIRE_OPENMP=1  fail, rather than build single-threaded, where OpenMP is missing
    FASTCONV_RELEASE=1         for other machines: fail, rather than leave out OpenMP or an instruction set;
                               on Linux put GCC's OpenMP runtime into the package, and no debug information
    FASTCONV_LIMITED_API=1     build for CPython 3.11 and all later ones (abi3), not for this one alone;
                               free-threaded ones have no such interface and get a build of their own
    FASTCONV_BUILD_JOBS=n      compile n files at once (default: the processors this process may use)

On Windows the compiler is the clang-cl of the PATH, with Visual Studio's headers, libraries and linker.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
INCLUDE = Path("fastconv/include")  # the public header
WINDOWS = sys.platform == "win32"


def clang(*flags):
    """Flags of Clang as the compiler takes them: clang-cl, on Windows, is called with those of cl.exe."""
    return [f"/clang:{flag}" if WINDOWS else flag for flag in flags]


FLAGS = clang("-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden")
# Contraction into FMA is wanted; nothing else of -ffast-math is.
# Aligned to a cache line, a loop does not run 6 % slower for what happens to be compiled before it.
KERNEL_FLAGS = clang("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-falign-functions=64")
ISA_FLAGS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISA_FLAGS["avx2"] = clang("-mavx2", "-mfma")
    ISA_FLAGS["avx512"] = clang("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma")

OPENMP_COMPILE, OPENMP_LINK = clang("-fopenmp"), ["-fopenmp"]
if sys.platform == "darwin":
    # Apple's compiler knows the pragmas, but neither header nor library: these are Homebrew's.
    prefix = os.environ.get("HOMEBREW_PREFIX", "/opt/homebrew") + "/opt/libomp"
    OPENMP_COMPILE = ["-Xclang", "-fopenmp", f"-I{prefix}/include"]
    OPENMP_LINK = [f"-L{prefix}/lib", "-lomp"]
if WINDOWS:
    CLANG = Path(shutil.which("clang-cl") or "clang-cl").absolute()
    OPENMP_LINK = [f"/LIBPATH:{CLANG.parents[1] / 'lib'}", "libomp.lib"]

RELEASE = os.environ.get("FASTCONV_RELEASE") == "1"
REQUIRE_OPENMP = RELEASE or os.environ.get("FASTCONV_REQUIRE_OPENMP") == "1"
LIMITED_API = (os.environ.get("FASTCONV_LIMITED_API") == "1"
               and not sysconfig.get_config_var("Py_GIL_DISABLED"))


class BuildKernels(build_ext):
    """build_ext that gives every C file its own flags and compiles them in parallel."""

    def build_extension(self, ext):
        module = Path(self.get_ext_fullpath(ext.name))
        for other in () if self.inplace else module.parent.glob("_core.*"):
            if other.suffix in (".so", ".pyd") and other.name != module.name:
                other.unlink()  # of another Python, from an earlier build: it would go into the wheel
        if WINDOWS:  # instead of cl.exe, which has no vector types
            if not self.compiler.initialized:
                self.compiler.initialize(self.plat_name)
            self.compiler.cc = str(CLANG)
            self.compiler.compile_options = ["/nologo", "/MD", "/O2", "/DNDEBUG"]
        program = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
        openmp, link = OPENMP_COMPILE, OPENMP_LINK
        if not self.accepts(openmp, program, link):
            openmp = link = []
            if REQUIRE_OPENMP:
                raise SystemExit("fastconv: the compiler has no OpenMP, which the environment requires")
            print("fastconv: the compiler has no OpenMP: building single-threaded", file=sys.stderr)
        isas = {isa: flags for isa, flags in ISA_FLAGS.items()
                if all(self.accepts([flag], "int main(void) { return 0; }\n", []) for flag in flags)}
        if RELEASE and isas.keys() != ISA_FLAGS.keys():
            raise SystemExit(f"fastconv: the compiler has only {', '.join(isas)} (FASTCONV_RELEASE=1)")
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
        ext.extra_link_args = link
        if WINDOWS and openmp:
            # Beside the module, where alone Python has it looked for.
            module.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CLANG.parent / "libomp.dll", module.parent)
        if RELEASE and sys.platform == "linux":
            # Under its own name: the loader then takes this copy and torch's for one, whichever comes
            # first. Two in a process would each have a pool of threads.
            self.bundle("libgomp.so.1", module.parent / "_libs")
            ext.extra_link_args = [*link, "-Wl,-rpath,$ORIGIN/_libs", "-Wl,--strip-debug"]
        super().build_extension(ext)

    def bundle(self, library, folder):
        """Copies a shared library of the compiler's to `folder`."""
        command = [*self.compiler.compiler_so[:1], f"-print-file-name={library}"]
        path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        if not path.is_absolute():
            raise SystemExit(f"fastconv: {command[0]} has no {library} (FASTCONV_RELEASE=1)")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / library)

    def accepts(self, flags, program, link):
        """Whether the compiler builds `program` with `flags` and links it with `link`."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder,
                                                extra_postargs=flags)
                self.compiler.link_executable(objects, "probe", output_dir=folder,
                                              extra_postargs=link)
            except Exception:  # setuptools raises a different class per compiler and version
                return False
        return True


setup(
    ext_modules=cythonize(
        [Extension("fastconv._core", ["fastconv/_core.pyx"], include_dirs=[str(CSRC), str(INCLUDE)],
                   depends=[str(p) for folder in (CSRC, INCLUDE) for p in folder.rglob("*") if p.is_file()],
                   extra_compile_args=clang("-O3"),  # CFLAGS in the environment replace the interpreter's
                   export_symbols=["fastconv_get_api"],  # on Windows; elsewhere api.c says so itself
                   define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else [],
                   py_limited_api=LIMITED_API)],
        language_level=3,
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
    cmdclass={"build_ext": BuildKernels},
)
