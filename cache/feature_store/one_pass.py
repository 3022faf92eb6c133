"""Machine code that copies bytes and takes their crc32c while they are in the processor's registers.

A crc is the remainder of the message as a polynomial over GF(2). Carry-less multiplication moves a 128-bit part of it
D bits ahead: part * x^D mod P is congruent to it, so it can be xored into the bytes there. UNROLL vectors at a time are
loaded, stored, and folded onto so the memory sets the pace; what is left of the message at the end is as long as these
vectors and is summed by the processor's crc32 instruction. After: Gopal et al., "Fast CRC Computation for Generic
Polynomials Using PCLMULQDQ Instruction", Intel 2009. The code is made by LLVM for the processor that runs it.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import llvmlite.binding as llvm

CopyTable: TypeAlias = Callable[[int, int, int], None]
"""(address of N times source, target, size as int64; address of N uint32 for the checksums; N)."""

POLYNOMIAL = 0x11EDC6F41
"""Castagnoli's."""
UNROLL = 4
_CLMUL = {2: "llvm.x86.pclmulqdq", 4: "llvm.x86.pclmulqdq.256", 8: "llvm.x86.pclmulqdq.512"}
"""By the number of 64-bit lanes of a vector."""


def compiled(lanes: int | None = None) -> CopyTable:
    """Return the function for this processor, which lives as long as the process.

    lanes: 64-bit lanes of its vectors, by default the most that there are. NotImplementedError where it cannot be had.
    """
    possible = supported_lanes()
    if not possible or (lanes or possible[0]) not in possible:
        raise NotImplementedError(f"{llvm.get_host_cpu_name()} has no carry-less multiplication of x86 of that width")
    return _compiled(lanes or possible[0])


def supported_lanes() -> tuple[int, ...]:
    """Return the widths that this processor has, the widest first."""
    has = llvm.get_host_cpu_features()
    if not llvm.get_process_triple().startswith("x86_64") or not (has.get("sse4.2") and has.get("pclmul")):
        return ()
    wide = {8: has.get("avx512f"), 4: has.get("avx2"), 2: True}
    return tuple(lanes for lanes, known in wide.items() if known and (lanes == 2 or has.get("vpclmulqdq")))


@cache
def _compiled(lanes: int) -> CopyTable:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
        )
        module = llvm.parse_assembly(_source(lanes))
        # An intrinsic that this LLVM does not know is left as a call of a function that there is not.
        if "llvm.x86" in machine.emit_assembly(module):
            raise RuntimeError("an intrinsic is unknown")
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
    except RuntimeError as error:  # an older LLVM knows no `ptr`
        raise NotImplementedError(f"LLVM {llvm.llvm_version_info} does not take the code: {error}") from error
    function: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
        engine.get_function_address("copy_table")
    )
    function.engine = engine  # owns the code
    copy: CopyTable = function
    return copy


def _source(lanes: int) -> str:
    """Return the function in LLVM's language, for vectors of so many 64-bit lanes."""
    vector, width = f"<{lanes} x i64>", 8 * lanes
    step = UNROLL * width
    # A part's first 64 bits in memory are those of the higher powers. Reflected, a product comes out one bit lower,
    # and the remainders are of 32 bits in the upper half of 64: hence 32 bits less, and the shift in `_power`.
    pair = f"i64 {_power(8 * step + 32)}, i64 {_power(8 * step - 32)}"
    factors = f"<{', '.join([pair] * (lanes // 2))}>"
    all_ones_first = f"<{', '.join(['i64 4294967295'] + ['i64 0'] * (lanes - 1))}>"
    each = range(UNROLL)

    def block(text: str) -> str:
        return "\n".join(text.replace("#", str(j)).replace("@OFFSET", str(j * width)) for j in each)

    first = block(f"""
      %s# = getelementptr i8, ptr %source, i64 @OFFSET
      %t# = getelementptr i8, ptr %target, i64 @OFFSET
      %first# = load {vector}, ptr %s#, align 1
      store {vector} %first#, ptr %t#, align 1""")
    phis = "\n".join(
        f"      %x{j} = phi {vector} [ %{'start' if j == 0 else f'first{j}'}, %first ], [ %next{j}, %fold ]"
        for j in each
    )
    fold = block(f"""
      %fs# = getelementptr i8, ptr %from, i64 @OFFSET
      %ft# = getelementptr i8, ptr %to, i64 @OFFSET
      %new# = load {vector}, ptr %fs#, align 1
      store {vector} %new#, ptr %ft#, align 1
      %early# = call {vector} @{_CLMUL[lanes]}({vector} %x#, {vector} {factors}, i8 0)
      %late# = call {vector} @{_CLMUL[lanes]}({vector} %x#, {vector} {factors}, i8 17)
      %folded# = xor {vector} %early#, %late#
      %next# = xor {vector} %folded#, %new#""")
    rest = block(f"""
      %r# = getelementptr i8, ptr %remainder, i64 @OFFSET
      store {vector} %x#, ptr %r#, align 8""")
    return f"""
    declare {vector} @{_CLMUL[lanes]}({vector}, {vector}, i8 immarg)
    declare i64 @llvm.x86.sse42.crc32.64.64(i64, i64)
    declare i32 @llvm.x86.sse42.crc32.32.8(i32, i8)

    define private i32 @copy(ptr %source, ptr %target, i64 %size) {{
    entry:
      %remainder = alloca [{step} x i8], align 64
      %long = icmp uge i64 %size, {step}
      br i1 %long, label %first, label %tail
    first:{first}
      %start = xor {vector} %first0, {all_ones_first}
      br label %loop
    loop:
      %at = phi i64 [ {step}, %first ], [ %end, %fold ]
{phis}
      %end = add i64 %at, {step}
      %whole = icmp ule i64 %end, %size
      br i1 %whole, label %fold, label %rest
    fold:
      %from = getelementptr i8, ptr %source, i64 %at
      %to = getelementptr i8, ptr %target, i64 %at{fold}
      br label %loop
    rest:{rest}
      br label %words
    words:
      %w = phi i64 [ 0, %rest ], [ %w.next, %words ]
      %sum = phi i64 [ 0, %rest ], [ %sum.next, %words ]
      %w.at = getelementptr i8, ptr %remainder, i64 %w
      %word = load i64, ptr %w.at, align 8
      %sum.next = call i64 @llvm.x86.sse42.crc32.64.64(i64 %sum, i64 %word)
      %w.next = add i64 %w, 8
      %w.more = icmp ult i64 %w.next, {step}
      br i1 %w.more, label %words, label %tail
    tail:
      %done = phi i64 [ 0, %entry ], [ %at, %words ]
      %sum.done = phi i64 [ 4294967295, %entry ], [ %sum.next, %words ]
      %crc.done = trunc i64 %sum.done to i32
      br label %bytes
    bytes:
      %b = phi i64 [ %done, %tail ], [ %b.next, %byte ]
      %crc = phi i32 [ %crc.done, %tail ], [ %crc.next, %byte ]
      %b.more = icmp ult i64 %b, %size
      br i1 %b.more, label %byte, label %exit
    byte:
      %b.from = getelementptr i8, ptr %source, i64 %b
      %b.to = getelementptr i8, ptr %target, i64 %b
      %value = load i8, ptr %b.from, align 1
      store i8 %value, ptr %b.to, align 1
      %crc.next = call i32 @llvm.x86.sse42.crc32.32.8(i32 %crc, i8 %value)
      %b.next = add i64 %b, 1
      br label %bytes
    exit:
      %result = xor i32 %crc, -1
      ret i32 %result
    }}

    define void @copy_table(ptr %table, ptr %checksums, i64 %count) {{
    entry:
      br label %loop
    loop:
      %i = phi i64 [ 0, %entry ], [ %i.next, %one ]
      %more = icmp ult i64 %i, %count
      br i1 %more, label %one, label %exit
    one:
      %line = getelementptr [3 x i64], ptr %table, i64 %i
      %line.target = getelementptr i64, ptr %line, i64 1
      %line.size = getelementptr i64, ptr %line, i64 2
      %source = load ptr, ptr %line
      %target = load ptr, ptr %line.target
      %size = load i64, ptr %line.size
      %checksum = call i32 @copy(ptr %source, ptr %target, i64 %size)
      %place = getelementptr i32, ptr %checksums, i64 %i
      store i32 %checksum, ptr %place
      %i.next = add i64 %i, 1
      br label %loop
    exit:
      ret void
    }}
    """


def _power(exponent: int) -> int:
    """Return x^exponent mod P, bits reflected, one bit higher."""
    remainder = 1
    for _ in range(exponent):
        remainder <<= 1
        if remainder >> 32:
            remainder ^= POLYNOMIAL
    return int(f"{remainder:032b}"[::-1], 2) << 1
