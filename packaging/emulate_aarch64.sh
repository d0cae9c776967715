#!/usr/bin/env bash
# Compiles fastconv for aarch64 and runs the tests of the operations in an emulator, on x86-64 Debian 12:
#
#     apt-get install gcc-aarch64-linux-gnu qemu-user mmdebstrap
#     packaging/emulate_aarch64.sh FOLDER [pytest arguments, default: the tests of the operations]
#
# FOLDER keeps Debian's Python for aarch64 and the packages that the tests need, 250 MB, for the next time. Run it in an
# environment with Cython and setuptools. Minutes; needs no root. Tests that start processes are left out: the emulator
# runs the one that it is given.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:?usage: packaging/emulate_aarch64.sh FOLDER}")
shift
if [ $# = 0 ]; then
    set -- tests/test_{activation,conv2d,fusion,linear,local_response,norm,optim,pool,recurrent,winograd}.py
fi
mkdir -p "$folder"
if [ ! -d "$folder/root" ]; then
    mmdebstrap --arch=arm64 --variant=extract --include=python3,libgomp1,libstdc++6 bookworm "$folder/root"
    # The extracted packages are not set up: this link is made by a script of theirs.
    ln -sf python3.11 "$folder/root/usr/bin/python3"
fi
[ -d "$folder/site" ] || pip install -q --target "$folder/site" --only-binary=:all: --implementation cp \
    --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    "numpy>=1.26" pytest pytest-benchmark hypothesis
# The limited API, whose headers say the same for every 64-bit processor, stands in for those of the other Python.
FASTCONV_LIMITED_API=1 CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" \
    python setup.py -q build --build-base "$folder/build" --build-lib "$folder/lib"
qemu-aarch64 -L "$folder/root" -E PYTHONPATH="$folder/lib:$folder/site" -E PYTHONDONTWRITEBYTECODE=1 \
    "$folder/root/usr/bin/python3.11" -P -c '
import platform, sys, fastconv, pytest
print(platform.machine(), fastconv.__file__, fastconv.available_isas())
sys.exit(pytest.main(sys.argv[1:]))' -q -p no:cacheprovider "$@"
