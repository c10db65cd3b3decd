"""Where the last complete zstd frame of a file ends (RFC 8878, section 3), found without decompressing it."""

from __future__ import annotations

import mmap

MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # bytes 2 to 4; the first is 0x50 to 0x5f
_DICTIONARY_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_RLE, _RESERVED = 1, 3

Content = bytes | mmap.mmap


def frame_end(content: Content, start: int) -> int:
    """Where the frame that begins at ``start`` ends, or -1 when it is cut off or no frame."""
    magic = content[start : start + 4]
    if magic[1:] == _SKIPPABLE and 0x50 <= magic[0] <= 0x5F:
        skipped = int.from_bytes(content[start + 4 : start + 8], "little")
        end = start + 8 + skipped
        return end if end <= len(content) else -1
    if magic != MAGIC or len(content) < start + 5:
        return -1
    descriptor = content[start + 4]
    single_segment = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
    at = start + 5 + (not single_segment) + _DICTIONARY_BYTES[descriptor & 3] + content_size
    last = False
    while not last:
        header = content[at : at + 3]
        if len(header) < 3:
            return -1
        word = int.from_bytes(header, "little")
        last, kind, block_bytes = bool(word & 1), word >> 1 & 3, word >> 3
        if kind == _RESERVED:
            return -1
        at += 3 + (1 if kind == _RLE else block_bytes)
    at += 4 * (descriptor >> 2 & 1)  # checksum
    return at if at <= len(content) else -1


def whole_frames(content: Content) -> int:
    """Bytes up to the end of the last complete frame. The content of the last one is checked too, because a
    power cut may leave zeros where its end should be."""
    import zstandard

    before = end = 0
    while (following := frame_end(content, end)) >= 0:
        before, end = end, following
    if content[before : before + 4] == MAGIC:
        try:
            decompressor = zstandard.ZstdDecompressor().decompressobj()
            decompressor.decompress(content[before:end])
        except zstandard.ZstdError:
            return before
    return end
