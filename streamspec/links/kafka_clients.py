"""Starting aiokafka's clients: tries again while that can help, and says clearly what is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from streamspec.core.address import split_address
from streamspec.core.errors import DependencyUnavailable
from streamspec.links import kafka_errors
from streamspec.links.kafka_access import KafkaAccess

_log = structlog.get_logger("streamspec.links.kafka")

FIRST_DELAY_SECONDS = 0.2
LARGEST_DELAY_SECONDS = 2.0


async def reach(make: Callable[[dict[str, Any]], Any], access: KafkaAccess, where: str, *, once: bool = False) -> Any:
    """A started consumer or producer.

    Args:
        make: of keyword arguments, a client that is not started.
        access: addresses and credentials.
        where: for errors, e.g. ``sources.in``.
        once: do not try again.

    Raises:
        DependencyUnavailable: no broker within ``connect_timeout``, or one that refuses us.
    """
    from aiokafka import errors

    kafka_errors.quiet()
    options = access.client_options(where)
    delay, give_up = FIRST_DELAY_SECONDS, time.monotonic() + access.connect_timeout
    while True:
        client = make(options)
        try:
            async with asyncio.timeout(max(give_up - time.monotonic(), 1.0)):
                await client.start()
            return client
        except (errors.KafkaError, OSError, TimeoutError) as error:
            await stop(client)
            reason = await _true_reason(error, access, options)
            hopeless = kafka_errors.is_hopeless(reason)
            if once or hopeless or time.monotonic() + delay >= give_up:
                raise kafka_errors.unavailable(reason, f"{where}.brokers", ",".join(access.brokers)) from error
            _log.warning("no broker answers, trying again", where=where, reason=str(reason) or repr(reason))
        except BaseException:
            await stop(client)
            raise
        await asyncio.sleep(delay)
        delay = min(2 * delay, LARGEST_DELAY_SECONDS)


async def stop(client: Any, timeout_seconds: float = 5.0) -> None:
    """Stop a client in whatever state it is. In a task of its own: aiokafka lets the cancellation of its own tasks
    escape from ``stop``, which would pass for ours."""
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait({stopping}, timeout=timeout_seconds)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    client._closed = True


async def _true_reason(error: BaseException, access: KafkaAccess, options: dict[str, Any]) -> BaseException:
    """aiokafka tells "unable to bootstrap" whatever happened; one connection of our own tells why."""
    from aiokafka import errors
    from aiokafka.conn import create_conn

    if not isinstance(error, errors.KafkaConnectionError | TimeoutError):
        return error
    own = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    for address in access.brokers:
        try:
            connection = await create_conn(*split_address(address), **(own | {"request_timeout_ms": 3000}))
        except (errors.KafkaError, OSError, TimeoutError) as reason:
            if kafka_errors.is_hopeless(reason) or not isinstance(reason, errors.KafkaConnectionError | TimeoutError):
                return reason
            error = reason
        else:
            connection.close()
    return error


async def find_topic(client: Any, topic: str, timeout_seconds: float, where: str) -> set[int]:
    """The partitions of a topic, as soon as it exists.

    Args:
        client: aiokafka's ``AIOKafkaClient``.
        timeout_seconds: how long it may take somebody to make it.

    Raises:
        DependencyUnavailable: there is none, or we may not use it.
    """
    from aiokafka import errors

    client.add_topic(topic)
    delay, give_up = FIRST_DELAY_SECONDS, time.monotonic() + timeout_seconds
    while True:
        await client.force_metadata_update()
        found: set[int] | None = client.cluster.partitions_for_topic(topic)
        if found:
            return found
        if topic in client.cluster.unauthorized_topics:
            raise kafka_errors.unavailable(errors.TopicAuthorizationFailedError(topic), where, topic)
        if time.monotonic() + delay >= give_up:
            raise missing_topic(topic, where)
        _log.warning("the topic does not exist yet, waiting", where=where, topic=topic)
        await asyncio.sleep(delay)
        delay = min(2 * delay, LARGEST_DELAY_SECONDS)


def missing_topic(topic: str, where: str) -> DependencyUnavailable:
    """The error for a topic that nobody made."""
    from aiokafka import errors

    return kafka_errors.unavailable(errors.UnknownTopicOrPartitionError(), where, topic)
