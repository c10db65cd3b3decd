"""Sink ``pcap``: segments as captures that other programs read, packets as they arrived.

Captures have nanoseconds and one link type. Link-layer packets keep theirs; application messages are written
as LINKTYPE_USER0. The first link type goes to ``path``; each further one to a file of its own beside it,
``out.link101.pcap`` for ``out.pcap``. Records of stages are not written.

A batch is appended by a thread. After a crash a torn last record is cut off at the next start; the segment it
belonged to was not acknowledged. A full disk is waited for. Counted: ``packets``, ``bytes``, ``rotations``,
``torn_bytes``, ``disk_full_waits``, ``cut_packets`` (longer than 256 KiB).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import structlog
from pydantic import Field

from streamspec.core.component import SinkConfigBase
from streamspec.core.errors import DependencyUnavailable, SinkError
from streamspec.core.interfaces import Bytes as ByteArray
from streamspec.core.interfaces import Delivery, DeliveryBatch, Rows
from streamspec.core.segment import CONTENT_PACKETS, PACKET
from streamspec.core.tally import Tally
from streamspec.core.units import Bytes

if TYPE_CHECKING:
    from streamspec.sinks.pcap_file import PcapFile

_log = structlog.get_logger("streamspec.sinks.pcap")

LINK_USER0 = 147
"""LINKTYPE_USER0, for what has no link layer."""
MAX_OPEN_FILES = 16
"""Link types with an open file; hostile captures can name thousands."""
FULL_FIRST_SECONDS, FULL_LARGEST_SECONDS = 0.1, 5.0


class PcapSinkConfig(SinkConfigBase):
    """Write packets to capture files."""

    type: Literal["pcap"] = Field(description="Packets in capture files (pcap with nanoseconds).")
    path: str = Field(
        min_length=1,
        pattern=r"[^/]$",
        description="The capture file, relative to the working folder. It is appended to if it is there. Rotated files "
        "are called `PATH.000001` and so on; further link types go to files of their own, `out.link101.pcap`.",
    )
    max_file_bytes: Bytes = Field(
        default=1 << 30,
        ge=1 << 10,
        description="Size at which a file is rotated, in bytes (1 KiB and up); it may be exceeded by a batch.",
    )
    keep_files: int | None = Field(
        default=None, ge=1, description="Files kept, the present one included; unset: all. Older ones are deleted."
    )
    fsync: Literal["never", "batch"] = Field(
        default="never",
        description="`batch`: a segment is acknowledged only when the disk has it; survives a power cut and is slow.",
    )

    def build(self, name: str) -> PcapSink:
        """The sink, not yet opened."""
        return PcapSink(name, self)


class PcapSink:
    """Implements ``Sink``."""

    def __init__(self, name: str, config: PcapSinkConfig) -> None:
        self._name = name
        self._config = config
        self._path = Path(config.path)
        self._tally = Tally()
        self._main_link_type: int | None = None
        self._files: OrderedDict[int, PcapFile] = OrderedDict()  # by link type, least recently used first
        self._sound_bytes: dict[int, int] = {}  # of files that were closed here

    async def open(self, tally: Tally) -> None:
        """Look at the file if it is there, and mend its end.

        Raises:
            DependencyUnavailable: it cannot be written, or something else is there.
        """
        self._tally = tally
        try:
            await asyncio.to_thread(self._open)
        except OSError as error:
            raise DependencyUnavailable(
                f"cannot be written: {error.strerror}",
                where=f"sinks.{self._name}.path",
                value=self._config.path,
                next_step="name a folder that this user may write to",
            ) from error

    def _open(self) -> None:
        from streamspec.sinks.pcap_file import NotOurs, link_type_of

        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._main_link_type = link_type_of(self._path)
        except NotOurs as error:
            raise DependencyUnavailable(
                "the file is there and is not a capture of this sink",
                where=f"sinks.{self._name}.path",
                value=self._config.path,
                allowed="a new file, or a pcap with nanoseconds, little endian, as this sink writes it",
                next_step="name another file, or move this one away",
            ) from error
        if self._main_link_type is not None:
            self._file(self._main_link_type)

    async def write(self, batch: DeliveryBatch) -> None:
        """Append the packets of the batch; waits for a full disk.

        Raises:
            SinkError: the file can no longer be written.
        """
        from streamspec.sinks.pcap_file import NotOurs

        try:
            for link_type, content in await asyncio.to_thread(self._records, batch):
                await self._append(link_type, content.data)
        except NotOurs as error:
            raise SinkError(
                "a file is there that is not a capture of this sink",
                where=f"sinks.{self._name}.path",
                value=str(error),
                next_step="move it away",
            ) from error
        except OSError as error:
            raise SinkError(
                f"cannot be written: {error.strerror}",
                where=f"sinks.{self._name}.path",
                value=self._config.path,
                next_step="see the kernel's log and the folder's rights",
            ) from error

    async def _append(self, link_type: int, content: memoryview) -> None:
        file = await asyncio.to_thread(self._file, link_type)
        delay_seconds = FULL_FIRST_SECONDS
        while content:
            written, full = await asyncio.to_thread(file.append, content)
            self._tally.add("bytes", written)
            content = content[written:]
            if full:
                self._tally.add("disk_full_waits")
                _log.error("disk full, waiting", sink=self._name, path=str(file.path))
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(2 * delay_seconds, FULL_LARGEST_SECONDS)
        await asyncio.to_thread(file.end_batch, self._config.fsync == "batch")

    async def close(self) -> None:
        """Close the files. Safe after a failed ``open``."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    # -- in a thread --------------------------------------------------------------------------
    def _records(self, batch: DeliveryBatch) -> list[tuple[int, ByteArray]]:
        """The batch as records of captures, by link type in order of appearance."""
        from streamspec.sinks.pcap_kernels import records_bytes, write_records

        parts: dict[int, list[tuple[ByteArray, Rows]]] = {}
        sizes: dict[int, int] = {}
        for delivery in batch:
            if not delivery.segment_id:
                continue  # records of a reducer
            link_type = delivery.link_type if delivery.content == CONTENT_PACKETS else LINK_USER0
            content, packets = _content(delivery), _packets(delivery)
            total, cut = records_bytes(packets, len(content))
            parts.setdefault(link_type, []).append((content, packets))
            sizes[link_type] = sizes.get(link_type, 0) + total
            self._tally.add("packets", len(packets))
            self._tally.add("cut_packets", cut)
        built = []
        for link_type, pieces in parts.items():
            out, position = np.empty(sizes[link_type], dtype=np.uint8), 0
            for content, packets in pieces:
                position = write_records(content, packets, out, position)
            built.append((link_type, out))
        return built

    def _file(self, link_type: int) -> PcapFile:
        """The open file of a link type."""
        from streamspec.sinks.pcap_file import PcapFile

        file = self._files.get(link_type)
        if file is None:
            if self._main_link_type is None:
                self._main_link_type = link_type
            if len(self._files) >= MAX_OPEN_FILES:
                other, oldest = self._files.popitem(last=False)
                oldest.close()
                self._sound_bytes[other] = oldest.size
            config, sound_bytes = self._config, self._sound_bytes.pop(link_type, 0)
            path = self._path_of(link_type)
            file = PcapFile(path, link_type, config.max_file_bytes, config.keep_files, self._tally, sound_bytes)
            self._files[link_type] = file
        self._files.move_to_end(link_type)
        return file

    def _path_of(self, link_type: int) -> Path:
        if link_type == self._main_link_type:
            return self._path
        return self._path.with_name(f"{self._path.stem}.link{link_type}{self._path.suffix}")


def _content(delivery: Delivery) -> ByteArray:
    return np.frombuffer(delivery.original, dtype=np.uint8) if len(delivery.original) else np.zeros(0, dtype=np.uint8)


def _packets(delivery: Delivery) -> Rows:
    """The packet table; a single row when the segment is one opaque payload."""
    if len(delivery.packets):
        return delivery.packets
    row = np.zeros(1, dtype=PACKET)
    row["timestamp_ns"] = delivery.timestamp_ns
    row["captured_bytes"] = row["wire_bytes"] = len(delivery.original)
    return row
