"""Exactly once: results, and the offsets of the records that they came from, in one transaction.

The offsets carry the generation of the group's member (KIP-447), so the broker refuses them once the partitions
have another owner; the transaction is then aborted, and what is not ours any more is left out of the next one. A
crash leaves a transaction that the broker aborts, and its records are read again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from streamspec.core.errors import DependencyUnavailable, SinkError
from streamspec.core.interfaces import Delivery, Source, TransactionalSource
from streamspec.core.tally import Tally
from streamspec.links import kafka_errors, kafka_meta
from streamspec.sinks.kafka_producer import Producer

_log = structlog.get_logger("streamspec.sinks.kafka")

ABORT_SECONDS = 10.0

Send = Callable[[Sequence[Delivery]], Awaitable[None]]


class Transactions:
    """Writes batches of deliveries, each in a transaction.

    Args:
        producer: transactional.
        source_named: how to find the source of a delivery.
    """

    def __init__(
        self, producer: Producer, source_named: Callable[[str], Source | None], tally: Tally, where: str
    ) -> None:
        self._producer = producer
        self._source_named = source_named
        self._tally = tally
        self._where = where
        self._open = False

    async def write(self, deliveries: Sequence[Delivery], send: Send) -> None:
        """Return when the transaction with these deliveries is committed.

        Raises:
            SinkError: the broker ended the transaction in a way that we do not know.
            DependencyUnavailable: hopeless, see :func:`kafka_errors.is_hopeless`.
        """
        sources = self._sources(deliveries)
        while True:
            async with contextlib.AsyncExitStack() as locks:
                for _, (source, _) in sorted(sources.items()):
                    await locks.enter_async_context(source.commit_lock)
                try:
                    await self._transact(deliveries, sources, send)
                except (SinkError, DependencyUnavailable):
                    raise
                except Exception as error:
                    await self._abort(error)
                else:
                    self._producer.succeeded()
                    return
            await self._producer.rest()  # without the locks, so that the group can move on

    def _sources(self, deliveries: Sequence[Delivery]) -> dict[str, tuple[TransactionalSource, dict[int, int]]]:
        """By name: the source, and which of the deliveries (by position) has which token."""
        found: dict[str, tuple[TransactionalSource, dict[int, int]]] = {}
        for position, delivery in enumerate(deliveries):
            entry = found.get(delivery.source)
            if entry is None:
                source = self._source_named(delivery.source) if delivery.source else None
                if not isinstance(source, TransactionalSource):
                    continue
                entry = found[delivery.source] = (source, {})
            origin = kafka_meta.unpack(delivery.meta)
            if origin is not None:
                entry[1][position] = origin.token
        return found

    async def _transact(
        self,
        deliveries: Sequence[Delivery],
        sources: dict[str, tuple[TransactionalSource, dict[int, int]]],
        send: Send,
    ) -> None:
        from streamspec.links.kafka_requests import send_offsets

        late = {
            position
            for source, tokens in sources.values()
            for position, token in tokens.items()
            if not source.owned(token)
        }
        self._tally.add("late_results", len(late))
        ours = [d for position, d in enumerate(deliveries) if position not in late] if late else deliveries
        client = self._producer.client
        await client.begin_transaction()
        self._open = True
        await send(ours)
        owned = [
            (source, [token for position, token in tokens.items() if position not in late])
            for source, tokens in sources.values()
        ]
        for source, mine in owned:
            commit = source.commit_for(mine)
            if commit is not None:
                await send_offsets(client, commit)
        await self._commit(client)
        self._open = False
        for source, mine in owned:
            source.committed(mine)

    async def _commit(self, client: Any) -> None:
        try:
            await client.commit_transaction()
        except Exception as error:
            self._open = False
            raise SinkError(
                f"it is unknown whether a transaction was committed: {error!r}",
                where=self._where,
                next_step="start again: reading goes on behind what was committed",
            ) from error

    async def _abort(self, error: Exception) -> None:
        """Take the transaction back; with a new producer when this one cannot go on."""
        if kafka_errors.is_hopeless(error):
            raise kafka_errors.unavailable(error, self._where, self._producer.client.client._client_id)
        self._tally.add("aborted_transactions")
        _log.warning("transaction aborted, trying again", where=self._where, reason=repr(error))
        client = self._producer.client
        manager = client._txn_manager
        waiter = manager._transaction_waiter
        if waiter is not None and waiter.done():
            waiter.exception()  # retrieved, or asyncio complains later
        try:
            if manager.is_fatal_error() or (self._open and manager.is_empty_transaction()):
                # aiokafka forgets on an error what it added, and tells the broker of no abort: what was sent would be
                # committed with the next transaction. A new producer of the same name aborts it.
                raise error
            if self._open:
                async with asyncio.timeout(ABORT_SECONDS):
                    await client.abort_transaction()
        except Exception as reason:
            await self._producer.replace(reason)
        self._open = False

    async def close(self) -> None:
        """Abort what a cancelled write left."""
        client = self._producer.client
        if not self._open or client is None:
            return
        with contextlib.suppress(Exception, TimeoutError):
            async with asyncio.timeout(ABORT_SECONDS):
                await client.abort_transaction()
        self._open = False
