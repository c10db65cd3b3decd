"""Sixty-four bytes at a time: the few instructions that numba has no words for.

A *mask* is a ``uint64`` whose bit *i* tells something about byte *i* of a chunk of 64. LLVM makes it one
comparison and one move with AVX-512, two or four with AVX2 or SSE2, and a short sequence elsewhere; nothing
here is particular to one processor.

None of these checks bounds: the caller sees to it that ``at`` and the bytes after it lie within ``memory``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic as _numba_intrinsic

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel

CHUNK = 64
"""Bytes that a mask stands for."""

Mask = np.uint64
to_int: Any = np.int64
"""Signed, whatever the operand: ``int()`` of an unsigned value would be unsigned in a kernel, and an unsigned plus
a signed one floating."""

NONE = np.uint64(0)
ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_BYTE = ir.IntType(8)
_VECTOR = ir.VectorType(_BYTE, CHUNK)
_MASK = ir.IntType(64)


def intrinsic(build: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's decorator, which has no types of use to a caller."""
    made: Callable[..., Any] = _numba_intrinsic(build)
    return made


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, value=array).data, [at])


def _load(context: Any, builder: Any, array_type: Any, array: Any, at: Any, kind: Any) -> Any:
    pointer = builder.bitcast(_address(context, builder, array_type, array, at), kind.as_pointer())
    return builder.load(pointer, align=1)


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), CHUNK), [0] * CHUNK))


@intrinsic
def load_u32(typing_context: Any, memory: Any, at: Any) -> Any:
    """Four bytes, in the order of this machine, at any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(context, builder, signature.args[0], arguments[0], arguments[1], ir.IntType(32))

    return types.uint32(memory, types.int64), generate


@intrinsic
def load_u64(typing_context: Any, memory: Any, at: Any) -> Any:
    """Eight bytes, in the order of this machine, at any address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(context, builder, signature.args[0], arguments[0], arguments[1], _MASK)

    return types.uint64(memory, types.int64), generate


@intrinsic
def prefetch(typing_context: Any, memory: Any, at: Any) -> Any:
    """Ask for the cache line that holds byte ``at``; harmless anywhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        integer = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, integer, integer, integer])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, *(ir.Constant(integer, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.none(memory, types.int64), generate


@intrinsic
def range_mask(typing_context: Any, memory: Any, at: Any, low: Any, high: Any) -> Any:
    """Which of the 64 bytes from ``at`` are between ``low`` and ``high``, both included."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, least, most = arguments
        chunk = _load(context, builder, signature.args[0], array, start, _VECTOR)
        above = builder.sub(chunk, _splat(builder, least))
        within = builder.icmp_unsigned("<=", above, _splat(builder, builder.sub(most, least)))
        return builder.bitcast(within, _MASK)

    return types.uint64(memory, types.int64, types.uint8, types.uint8), generate


@intrinsic
def equal_mask(typing_context: Any, memory: Any, at: Any, value: Any) -> Any:
    """Which of the 64 bytes from ``at`` are ``value``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        chunk = _load(context, builder, signature.args[0], arguments[0], arguments[1], _VECTOR)
        return builder.bitcast(builder.icmp_unsigned("==", chunk, _splat(builder, arguments[2])), _MASK)

    return types.uint64(memory, types.int64, types.uint8), generate


@intrinsic
def same_mask(typing_context: Any, memory: Any, at: Any, other: Any) -> Any:
    """Which of the 64 bytes from ``at`` equal their counterpart from ``other``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _load(context, builder, signature.args[0], arguments[0], arguments[1], _VECTOR)
        second = _load(context, builder, signature.args[0], arguments[0], arguments[2], _VECTOR)
        return builder.bitcast(builder.icmp_unsigned("==", first, second), _MASK)

    return types.uint64(memory, types.int64, types.int64), generate


def _counting(name: str) -> Callable[..., Any]:
    """An intrinsic on one ``uint64``: ``ctpop``, or ``cttz`` and ``ctlz`` which give 64 for zero."""

    def build(typing_context: Any, mask: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            method = getattr(builder, name)
            if name == "ctpop":
                return method(arguments[0])
            return method(arguments[0], ir.Constant(ir.IntType(1), 0))

        return types.int64(types.uint64), generate

    return build


count_ones = intrinsic(_counting("ctpop"))
"""Bits that are set."""
trailing_zeros = intrinsic(_counting("cttz"))
"""Zero bits below the lowest set bit; 64 for zero."""
leading_zeros = intrinsic(_counting("ctlz"))
"""Zero bits above the highest set bit; 64 for zero."""


@lean_kernel
def copy_padded(memory: Bytes, at: int, size: int, target: Bytes, capacity: int) -> None:
    """Copy ``size`` bytes from ``at`` to the start of ``target``, and zeros up to ``capacity``."""
    for index in range(size):
        target[index] = memory[at + index]
    for index in range(size, capacity):
        target[index] = 0
