"""The machine code of the tiles: fused multiply-adds in the innermost loop, and no vector on the stack.
Of Winograd's transforms: few vectors there; of its products of few tiles none."""

import re
import shutil
import subprocess

import pytest

from fastconv import _core

REGISTERS = {"avx2": "ymm", "avx512": "zmm"}
TILE = re.compile(r"((?:tile|brief)_(?:rows|cols))_(\d+)x(\d+)$")
TRANSFORM = re.compile(r"winograd_(data_6|output_3|filter_3)$")
PRODUCTS = "winograd_products_3"
# A transform has 36 vectors, AVX-512 32 registers: halves fit, a whole tile would be stored and loaded again.
# So many in all that a function has, one for each kind of tile.
FEW = 24


def functions(text):
    """(name, [(address, instruction)]) of every function in objdump's output."""
    for block in text.split("\n\n"):
        head = re.match(r"\n*([0-9a-f]+) <([^>]+)>:\n", block)
        if head:
            lines = re.findall(r"^ *([0-9a-f]+):\t(?:[0-9a-f]{2} )*\s*([^\n#<]+)", block[head.end():], re.M)
            yield head.group(2), [(int(address, 16), text.strip()) for address, text in lines]


def innermost_loops(instructions):
    """Instruction lists between a backward jump's target and the jump, those without another inside."""
    spans = []
    for address, text in instructions:
        jump = re.match(r"j\w+\s+([0-9a-f]+)$", text)
        if jump and instructions[0][0] <= int(jump.group(1), 16) <= address:
            spans.append((int(jump.group(1), 16), address))
    for first, last in spans:
        if not any(first <= f and last_ <= last and (f, last_) != (first, last) for f, last_ in spans):
            yield [text for address, text in instructions if first <= address <= last]


def stack_accesses(instructions):
    """The instructions that move a vector to or from the stack."""
    framed = any(re.match(r"mov\s+%rsp,%rbp$", text) for _, text in instructions)
    stack = r"\(%r[sb]p\b" if framed else r"\(%rsp\b"
    return [text for _, text in instructions if re.search(stack, text) and "mm" in text]


@pytest.fixture(scope="module")
def kernels():
    """{instruction set: {name: instructions}}; the register that they use tells them apart."""
    if not shutil.which("objdump"):
        pytest.skip("objdump is not installed")
    done = subprocess.run(["objdump", "-d", "--no-show-raw-insn", _core.__file__], check=True,
                          capture_output=True, text=True)
    found = {isa: {} for isa in REGISTERS}
    for name, instructions in functions(done.stdout):
        plain = name.split(".")[0]
        if TILE.match(plain) or TRANSFORM.match(plain) or plain == PRODUCTS:
            for isa, register in REGISTERS.items():
                if any(re.search(rf"vfmadd\w+ps .*%{register}", text) for _, text in instructions):
                    found[isa][plain] = instructions
    if not any(found.values()):
        pytest.skip("the extension is stripped, or has neither AVX2 nor AVX-512")
    return found


@pytest.mark.parametrize("isa", REGISTERS)
def test_tiles_keep_their_accumulators_in_registers(isa, kernels):
    if not kernels[isa]:
        pytest.skip(f"built without {isa}")
    tiles = {name: instructions for name, instructions in kernels[isa].items() if TILE.match(name)}
    kinds = {TILE.match(name).group(1) for name in tiles}
    assert kinds == {"tile_rows", "tile_cols", "brief_rows", "brief_cols"}
    problems = []
    for name, instructions in tiles.items():
        rows, vectors = map(int, TILE.match(name).groups()[1:])
        spilled = set(stack_accesses(instructions))
        hot = [loop for loop in innermost_loops(instructions) if any("vfmadd" in text for text in loop)]
        if not hot:
            problems.append(f"{name}: no loop of multiply-adds")
        for loop in hot:
            fused = sum(bool(re.match(rf"vfmadd\w+ps .*%{REGISTERS[isa]}", text)) for text in loop)
            if fused % (rows * vectors):
                problems.append(f"{name}: {fused} multiply-adds in the innermost loop, not {rows * vectors}")
            problems += [f"{name}: {text}" for text in loop if text in spilled]
    assert not problems, "\n".join(problems)


def test_products_of_few_tiles_keep_to_registers_on_avx2(kernels):
    if not kernels["avx2"]:
        pytest.skip("built without avx2")
    instructions = kernels["avx2"][PRODUCTS]
    spilled = set(stack_accesses(instructions))
    hot = [loop for loop in innermost_loops(instructions) if any("vfmadd" in text for text in loop)]
    assert len(hot) >= 4            # points and products, of the rows of 0 and infinity and of the others
    assert not [text for loop in hot for text in loop if text in spilled]


def test_transforms_of_tiles_fit_the_registers_of_avx512(kernels):
    if not kernels["avx512"]:
        pytest.skip("built without avx512")
    spilled = {name: stack_accesses(instructions) for name, instructions in kernels["avx512"].items()
               if TRANSFORM.match(name)}
    assert spilled.keys() == {"winograd_data_6", "winograd_output_3", "winograd_filter_3"}
    assert all(len(found) <= FEW for found in spilled.values()), spilled
