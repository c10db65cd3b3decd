"""Named arrays and facts as bytes, without pickling: a line of JSON, then the arrays one behind the other."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.profiles.refusals import ContentRefused

_MAGIC = b"SSA1"
_HEAD = struct.Struct("<4sI")
_ALIGNMENT = 16
_DTYPES = ("<f8", "<f4", "<i8", "<i4", "<i2", "|u1")

Array = npt.NDArray[Any]


def pack_arrays(facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Bytes that :func:`unpack_arrays` reads. ``facts`` must be JSON; arrays are of plain numbers."""
    listed, parts, position = [], [], 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).tobytes()
        padding = -len(content) % _ALIGNMENT
        listed.append((name, array.dtype.str, array.shape, position))
        parts += [content, bytes(padding)]
        position += len(content) + padding
    head = json.dumps({"facts": facts, "arrays": listed, "bytes": position}, separators=(",", ":")).encode()
    head += b" " * (-(len(head) + _HEAD.size) % _ALIGNMENT)
    return b"".join([_HEAD.pack(_MAGIC, len(head)), head, *parts])


def unpack_arrays(content: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Facts and arrays; the arrays are read-only views of ``content``.

    Raises:
        ContentRefused: these are not bytes of :func:`pack_arrays`, or not all of them.
    """
    try:
        magic, length = _HEAD.unpack_from(content)
        if magic != _MAGIC:
            raise ValueError("another format")
        start = _HEAD.size + length
        head = json.loads(content[_HEAD.size : start])
        if len(content) != start + head["bytes"]:
            raise ValueError(f"{len(content)} bytes instead of {start + head['bytes']}")
        arrays = {}
        for name, dtype, shape, position in head["arrays"]:
            if dtype not in _DTYPES:
                raise ValueError(f"an array of {dtype}")
            count = math.prod(map(int, shape))
            arrays[str(name)] = np.frombuffer(content, dtype, count, start + int(position)).reshape(shape)
        return dict(head["facts"]), arrays
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ContentRefused(f"not the arrays of a model: {error}", where="profiles.snapshot") from error
