"""What lies in a sink, piece by piece: JSON lines with payloads, captures, receivers' files, folders of these, and
Kafka topics."""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from loadgen.capture import CLASSIC, GZIP, PCAPNG, read_capture
from loadgen.errors import UsageError
from loadgen.kafka import read_topic
from loadgen.layers import transport_payload
from loadgen.marker import MAGIC as MARKER_MAGIC
from loadgen.records import MAGIC as RECORDS_MAGIC
from loadgen.records import read_records
from loadgen.target import Target

_ZSTD, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
_NOT_SINKS = (".torn", ".tmp")
"""Files that lie beside a sink's: ends that a crash tore off, and what is not complete yet."""


class Piece(NamedTuple):
    """One payload of a sink.

    Attributes:
        stream: pieces of the same stream follow each other, so that a message may go on in the next.
        arrival_ns: when the sink had it, nanoseconds since 1970; 0 when the sink does not say.
        content: its bytes, decompressed.
        error: why it is a dead letter; empty for a result.
    """

    stream: bytes
    arrival_ns: int
    content: bytes
    error: str = ""


class SinkReader:
    """Reads sinks and counts what could not be read.

    Args:
        dictionary: for payloads compressed by zstd with one.

    Attributes:
        unreadable: lines in the middle of a file that are no JSON, payloads that cannot be decoded.
        torn: files that end inside a line or a compressed frame, as after a crash.
    """

    def __init__(self, dictionary: bytes | None = None) -> None:
        self._dictionary = dictionary
        self.unreadable = 0
        self.torn = 0

    def read(self, sink: Path | Target) -> Iterator[Piece]:
        """The pieces of a topic, a file, or of all files in a folder in order of their names.

        Raises:
            UsageError: it cannot be read or is of no known form.
            Unreachable: no broker, no topic.
        """
        if isinstance(sink, Target):
            for record in read_topic(sink):
                yield Piece(record.stream, 0, self._plain(record.value), record.error)
            return
        if sink.is_dir():
            for path in sorted(p for p in sink.rglob("*") if p.is_file() and p.suffix not in _NOT_SINKS):
                yield from self.read(path)
            return
        try:
            with sink.open("rb") as file:
                start = file.read(8)
            if start.startswith(RECORDS_MAGIC):
                yield from (Piece(b"%d" % r.key, r.arrival_ns, self._plain(r.content)) for r in read_records(sink))
            elif start[:4] in CLASSIC or start[:4] == PCAPNG or start[:2] == GZIP:
                yield from self._packets(sink)
            else:
                yield from self._lines(sink, start)
        except OSError as error:
            raise UsageError(f"{sink}: cannot read: {error.strerror or error}") from None

    def _packets(self, path: Path) -> Iterator[Piece]:
        """Packets by flow; such as are themselves messages (LINKTYPE_USER0, for instance) are one stream."""
        for packet in read_capture(path):
            payload = transport_payload(packet)
            flow, content = payload if payload is not None else (b"", packet.content)
            yield Piece(flow, packet.timestamp_ns, self._plain(content))

    def _lines(self, path: Path, start: bytes) -> Iterator[Piece]:
        with path.open("rb") as file:
            source: IO[bytes] = _decompressed(file) if start.startswith(_ZSTD) else file
            number = 0
            while line := self._next_line(source):
                number += 1
                try:
                    content = json.loads(line)
                except ValueError:
                    if number == 1 and not line.startswith(b"{"):
                        raise UsageError(f"{path}:1: not JSON lines, a capture or a receiver's file") from None
                    self.torn += not line.endswith(b"\n")
                    self.unreadable += line.endswith(b"\n")
                    continue
                piece = self._piece(content)
                if piece is not None:
                    yield piece

    def _next_line(self, source: IO[bytes]) -> bytes:
        import zstandard

        try:
            return source.readline()
        except (zstandard.ZstdError, EOFError):
            self.torn += 1
            return b""

    def _piece(self, content: Any) -> Piece | None:
        """The payload of a line, if it has one."""
        payload = content.get("payload") if isinstance(content, dict) else None
        if not isinstance(payload, str):
            return None
        try:
            raw = _decoded(payload, content.get("payload_encoding"))
        except (ValueError, UnicodeError, binascii.Error):
            self.unreadable += 1
            return None
        stream = f"{content.get('source')}\0{content.get('key')}".encode(errors="replace")
        return Piece(stream, 0, self._plain(raw), str(content.get("error") or ""))

    def _plain(self, content: bytes) -> bytes:
        """``content``, decompressed when it is a compressed file with markers inside. A piece of a stream may begin
        like one by chance, and lz4 may leave the first marker as it is: what comes out decides."""
        if content[:4] not in (_ZSTD, _LZ4) and content[:2] != GZIP:
            return content
        try:
            plain = _inflate(content, self._dictionary)
        except (ValueError, RuntimeError, OSError, EOFError, zlib.error):
            self.unreadable += MARKER_MAGIC not in content
            return content
        return plain if MARKER_MAGIC in plain else content


def _decoded(payload: str, encoding: object) -> bytes:
    """The bytes of a payload; without a named encoding, text when it shows a marker and base64 otherwise."""
    if encoding == "base64" or (encoding is None and MARKER_MAGIC.decode() not in payload):
        return base64.b64decode(payload, validate=True)
    return payload.encode("utf-8", errors="surrogatepass")


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    import zstandard

    reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return io.BufferedReader(reader)


def _inflate(content: bytes, dictionary: bytes | None) -> bytes:
    if content.startswith(GZIP):
        return gzip.decompress(content)
    if content.startswith(_LZ4):
        import lz4.frame

        return bytes(lz4.frame.decompress(content))
    import zstandard

    learned = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    try:
        return zstandard.ZstdDecompressor(dict_data=learned).decompressobj().decompress(content)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
