#!/usr/bin/env bash
# Compiles the C side for Windows and for musl and runs it, on x86-64 Debian 12: packaging/check_kernels.c compares it
# with plain loops, and here its bits are compared with those of the same on this system.
#
#     apt-get install clang-19 libomp-19-dev gcc-mingw-w64-x86-64-posix wine64 musl-tools
#     packaging/emulate_windows.sh FOLDER
#
# FOLDER keeps Wine's files and Intel's build of LLVM's OpenMP, 700 MB, for the next time. There is no OpenMP for musl
# here: that program has one thread. Two minutes; needs no root.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:?usage: packaging/emulate_windows.sh FOLDER}")
export WINEPREFIX=$folder/wine WINEDEBUG=-all KMP_AFFINITY=disabled    # Wine lacks what OpenMP would ask about NUMA
mkdir -p "$folder"
openmp=$folder/libiomp5md.dll
if [ ! -f "$openmp" ]; then
    pip download -q --no-deps --dest "$folder" --only-binary=:all: --platform win_amd64 intel-openmp
    python -m zipfile -e "$folder"/intel_openmp-*.whl "$folder/wheel"
    find "$folder/wheel" -name libiomp5md.dll -exec cp {} "$openmp" \;
    rm -r "$folder/wheel" "$folder"/*.whl
fi

build() {   # PROGRAM LIBRARY COMPILER [OPTIONS]
    local program=$folder/$1 library=$2 compile=("${@:3}" -std=gnu11 -O2 -Wall -Wextra -Werror -Ifastconv/include)
    local kernel=("${compile[@]}" -ffp-contract=fast -fno-math-errno -fno-trapping-math -c)
    "${kernel[@]}" csrc/kernels/isa/baseline.c -o "$folder/baseline.o"
    "${kernel[@]}" -mavx2 -mfma csrc/kernels/isa/avx2.c -o "$folder/avx2.o"
    "${kernel[@]}" -mavx512{f,vl,dq,bw} -mfma csrc/kernels/isa/avx512.c -o "$folder/avx512.o"
    "${compile[@]}" -DFC_HAVE_AVX2 -DFC_HAVE_AVX512 '-DFASTCONV_VERSION=""' csrc/{runtime,ops,api}/*.c \
        packaging/check_kernels.c "$folder"/{baseline,avx2,avx512}.o -o "$program" "$library"
}

bits() {    # FILE: each instruction set and its hash
    tr -d '\r' < "$1" | awk '/team of/ { print $1, $NF }' | sort -u
}

build here -lm gcc -fopenmp
"$folder/here" | tee "$folder/here.txt"
echo "musl:"
build musl -lm musl-gcc
"$folder/musl" | tee "$folder/musl.txt"
echo "Windows:"
# Behind -Xclang the compiler alone sees it: the linker would look for a library of another name.
build windows.exe "$openmp" clang-19 --target=x86_64-w64-mingw32 -Xclang -fopenmp
/usr/lib/wine/wine64 "$folder/windows.exe" | tee "$folder/windows.txt"
for system in musl windows; do
    diff <(bits "$folder/here.txt") <(bits "$folder/$system.txt")
done
