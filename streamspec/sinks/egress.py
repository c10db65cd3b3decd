"""What sinks over a network share: limits of rate, the class of priority, waiting for a socket."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from streamspec.core.component import SinkConfigBase
from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import Clock
from streamspec.core.pacer import Pace, TokenBucket
from streamspec.core.units import BytesPerSecond

Content = Literal["payload", "records"]
Framing = Literal["length", "newline", "raw"]
Sleep = Callable[[float], Awaitable[None]]

PACED_SECONDS = 0.02
"""Time between two bursts of a paced sink."""
LEAST_BURST_BYTES = 16 * 1024
"""Bursts are not made smaller than this: each costs a wake-up."""

_CLASS = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})")


def class_id(text: str) -> int:
    """``"1:10"`` -> 0x10010. Both numbers are hexadecimal, as ``tc`` reads and prints them.

    Raises:
        ValueError: not two hexadecimal numbers of up to 16 bits.
    """
    match = _CLASS.fullmatch(text)
    if match is None:
        raise ValueError(f"not a class of tc: {text!r}; write major:minor in hexadecimal, such as 1:10")
    return int(match[1], 16) << 16 | int(match[2], 16)


def _checked(text: str) -> str:
    class_id(text)
    return text


class EgressConfig(SinkConfigBase):
    """Fields of every sink that writes to a network."""

    bytes_per_second: BytesPerSecond | None = Field(
        default=None,
        gt=0,
        description="Most bytes per second that are written, or text such as `100 Mbit/s` (above 0; unset: no limit). "
        "Lower values hold results back, and with them the sources.",
    )
    priority_class: Annotated[str, AfterValidator(_checked)] | None = Field(
        default=None,
        description="Class of the traffic control tree on the way out, as `tc` names it (hexadecimal), `1:10` for "
        "instance: sets SO_PRIORITY of the socket, which HTB takes for its class. Needs CAP_NET_ADMIN (unset: 0).",
    )

    @property
    def burst_bytes(self) -> int:
        """What is written at once under ``bytes_per_second``."""
        return burst_bytes(self.bytes_per_second or 0.0)


def burst_bytes(bytes_per_second: float) -> int:
    """What a paced sink writes at once."""
    return max(LEAST_BURST_BYTES, round(bytes_per_second * PACED_SECONDS))


class Pacer:
    """Waits as a token bucket says; without a rate it never does."""

    def __init__(self, config: EgressConfig, clock: Clock, sleep: Sleep) -> None:
        self._configured = config.bytes_per_second
        self._bucket: TokenBucket | None = None
        self._pace: Pace | None = None
        self._clock = clock
        self._sleep = sleep
        self.set_rate(None)

    def set_rate(self, bytes_per_second: float | None) -> None:
        """Another limit from now on; ``None``: the configured one. What was sent is remembered."""
        rate = self._configured if bytes_per_second is None else bytes_per_second
        if rate is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = TokenBucket(rate, burst_bytes(rate))
        else:
            self._bucket.set_rate(self._clock.monotonic_ns(), rate)
            self._bucket.burst_bytes = burst_bytes(rate)

    def follow(self, pace: Pace | None) -> None:
        """Wait also as ``pace`` says, from now on."""
        self._pace = pace

    @property
    def burst_bytes(self) -> int | None:
        """What is written at once; ``None``: any amount."""
        rates = [limit.bytes_per_second for limit in (self._bucket, self._pace) if limit is not None]
        return burst_bytes(min(rates)) if rates else None

    async def pass_on(self, size_bytes: int) -> None:
        """Return when these bytes may be written."""
        now_ns = self._clock.monotonic_ns()
        delay_ns = max(
            (limit.delay_ns(now_ns, size_bytes) for limit in (self._bucket, self._pace) if limit is not None), default=0
        )
        if delay_ns:
            await self._sleep(delay_ns * 1e-9)


def set_priority(target: socket.socket, priority_class: str | None, where: str) -> None:
    """Set SO_PRIORITY.

    Raises:
        DependencyUnavailable: the process may not.
    """
    if priority_class is not None:
        retag(target, priority_class, where)


def retag(target: socket.socket, priority_class: str | None, where: str) -> None:
    """As :func:`set_priority`; ``None`` takes a class away."""
    number = 0 if priority_class is None else class_id(priority_class)
    try:
        target.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, struct.pack("=I", number))
    except PermissionError as error:
        raise DependencyUnavailable(
            "setting SO_PRIORITY is not permitted",
            where=f"{where}.priority_class",
            value=priority_class,
            next_step="give the process CAP_NET_ADMIN, or leave priority_class out",
        ) from error


async def writable(target: socket.socket) -> None:
    """Return when the socket takes more, or is broken."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(target.fileno(), _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(target.fileno())


async def readable(target: socket.socket) -> None:
    """Return when the socket has something to read, its end included."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(target.fileno(), _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(target.fileno())


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
