"""Several bytes at a time in kernels: loads and stores of words at any address of a byte array.

A byte array read or written byte by byte costs numba a comparison per byte, since an index may be negative; one of
these is one instruction. None of them checks bounds: the caller sees to it that all bytes lie within the array.

With ``NUMBA_DISABLE_JIT`` they are plain Python, so that kernels can be run under numpy's checks of every index.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic as _numba_intrinsic

from streamspec.core.interfaces import Bytes

load_u32: Callable[[Bytes, int], int]
"""Four bytes, little endian, as a signed number that is never negative."""
load_be16: Callable[[Bytes, int], int]
"""Two bytes in network order."""
load_be32: Callable[[Bytes, int], int]
"""Four bytes in network order."""
load_u64: Callable[[Bytes, int], np.uint64]
"""Eight bytes, little endian."""
store_u32: Callable[[Bytes, int, int], None]
"""The low four bytes of a number, little endian."""
store_u64: Callable[[Bytes, int, int], None]
"""The eight bytes of a number, little endian."""
put_text: Callable[[Bytes, int, Bytes], int]
"""Copy all of a constant array to ``at``; returns where it ends."""
trailing_zeros: Callable[[int], int]
"""Zero bits below the lowest set bit of a number that is not 0."""


def _intrinsic(build: Callable[..., Any]) -> Any:
    """Numba's decorator, whose result has a type of no use to a caller."""
    return _numba_intrinsic(build)


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any, bits: int) -> Any:
    data = context.make_array(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(bits).as_pointer())


def _loading(bits: int, *, big_endian: bool = False) -> Any:
    result = types.uint64 if bits == 64 else types.int64

    @_intrinsic
    def load(typing_context: Any, memory: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(
                _address(context, builder, signature.args[0], arguments[0], arguments[1], bits), align=1
            )
            if big_endian:
                value = builder.bswap(value)
            return value if bits == 64 else builder.zext(value, ir.IntType(64))

        return result(memory, types.int64), generate

    return load


def _storing(bits: int) -> Any:
    @_intrinsic
    def store(typing_context: Any, memory: Any, at: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, where, word = arguments
            if bits < 64:
                word = builder.trunc(word, ir.IntType(bits))
            builder.store(word, _address(context, builder, signature.args[0], array, where, bits), align=1)
            return context.get_dummy_value()

        return types.none(memory, types.int64, types.int64), generate

    return store


@_intrinsic
def _put_text(typing_context: Any, out: Any, at: Any, text: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = _address(context, builder, signature.args[0], arguments[0], arguments[1], 8)
        source = context.make_array(signature.args[2])(context, builder, value=arguments[2])
        size = builder.extract_value(source.shape, 0)
        flag = ir.Constant(ir.IntType(1), 0)
        kind = ir.FunctionType(ir.VoidType(), [target.type, source.data.type, size.type, flag.type])
        copy = builder.module.declare_intrinsic("llvm.memcpy", [target.type, source.data.type, size.type], kind)
        builder.call(copy, [target, source.data, size, flag])
        return builder.add(arguments[1], size)

    return types.int64(out, types.int64, text), generate


@_intrinsic
def _trailing_zeros(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


def _plain_load(memory: Bytes, at: int, count: int, *, big_endian: bool) -> int:
    taken = [int(memory[at + i]) for i in range(count)]
    return int.from_bytes(bytes(taken), "big" if big_endian else "little")


def _plain_store(memory: Bytes, at: int, value: int, count: int) -> None:
    for i in range(count):
        memory[at + i] = int(value) >> 8 * i & 255


def _plain_text(out: Bytes, at: int, text: Bytes) -> int:
    for i in range(len(text)):
        out[at + i] = text[i]
    return at + len(text)


if getattr(numba.config, "DISABLE_JIT", 0):
    load_u32 = lambda memory, at: _plain_load(memory, at, 4, big_endian=False)  # noqa: E731
    load_u64 = lambda memory, at: np.uint64(_plain_load(memory, at, 8, big_endian=False))  # noqa: E731
    load_be16 = lambda memory, at: _plain_load(memory, at, 2, big_endian=True)  # noqa: E731
    load_be32 = lambda memory, at: _plain_load(memory, at, 4, big_endian=True)  # noqa: E731
    store_u32 = lambda memory, at, value: _plain_store(memory, at, value, 4)  # noqa: E731
    store_u64 = lambda memory, at, value: _plain_store(memory, at, value, 8)  # noqa: E731
    trailing_zeros = lambda value: (int(value) & -int(value)).bit_length() - 1  # noqa: E731
    put_text = _plain_text
else:
    assert sys.byteorder == "little"
    load_u32, load_u64 = _loading(32), _loading(64)
    load_be16, load_be32 = _loading(16, big_endian=True), _loading(32, big_endian=True)
    store_u32, store_u64 = _storing(32), _storing(64)
    trailing_zeros, put_text = _trailing_zeros, _put_text
