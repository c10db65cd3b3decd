"""Two requests that aiokafka does not have in the versions that exactly-once needs (KIP-447).

``OffsetFetch`` 7 with ``require_stable``: the answer waits for transactions that are about to commit offsets, so
that who takes a partition over never starts before them. ``TxnOffsetCommit`` 3 with generation and member: the
broker refuses the offsets of who lost its partitions in the meantime. Field by field as in Kafka's
``OffsetFetchRequest.json`` and ``TxnOffsetCommitRequest.json``.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import errors
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.producer.sender import TxnOffsetCommitHandler
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streamspec.core.interfaces import OffsetCommit

UNSTABLE_OFFSET_COMMIT = 88
_LOST = {
    22: "the group has a newer generation",
    25: "no member of the group any more",
    82: "another instance took over",
}
RETRY_SECONDS = 0.1

_TEXT = CompactString("utf-8")


class PartitionLost(errors.KafkaError):  # type: ignore[misc]
    """A transaction holds offsets of partitions that belong to somebody else by now."""


# -- offsets that are stable ------------------------------------------------------------------
class _OffsetFetchResponse(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = Schema(
        ("group", _TEXT),
        ("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields))),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class _OffsetFetch(Request[_OffsetFetchStruct]):  # type: ignore[misc]
    API_KEY = 9

    def __init__(self, group: str, topics: list[tuple[str, list[int], dict[int, bytes]]]) -> None:
        self._group = group
        self._topics = topics

    def build(self, request_struct_class: type[_OffsetFetchStruct]) -> _OffsetFetchStruct:
        return request_struct_class(self._group, self._topics, True, {})


async def stable_offsets(coordinator: Any, partitions: Iterable[Any]) -> dict[Any, tuple[int, str]]:
    """Committed offset and metadata of each partition that has one.

    Args:
        coordinator: aiokafka's ``GroupCoordinator``.
        partitions: ``TopicPartition``.
    """
    wanted: dict[str, list[int]] = defaultdict(list)
    for partition in partitions:
        wanted[partition.topic].append(partition.partition)
    request = _OffsetFetch(coordinator.group_id, [(topic, found, {}) for topic, found in wanted.items()])
    while wanted:
        await coordinator.ensure_coordinator_known()
        try:
            response = await coordinator._client.send(
                coordinator.coordinator_id, request, group=ConnectionGroup.COORDINATION
            )
        except NotImplementedError:  # a broker older than 2.5, which has no KIP-447 either
            found = await coordinator.fetch_committed_offsets(partitions)
            return {tp: (committed.offset, committed.metadata) for tp, committed in found.items()}
        except errors.KafkaError as error:
            if not error.retriable:
                raise
            coordinator.coordinator_dead()
            await asyncio.sleep(RETRY_SECONDS)
            continue
        offsets = _read_offsets(coordinator, response)
        if offsets is not None:
            return offsets
        await asyncio.sleep(RETRY_SECONDS)
    return {}


def _read_offsets(coordinator: Any, response: Any) -> dict[Any, tuple[int, str]] | None:
    """The answer; None to ask again."""
    codes = [response.error_code, *(part[4] for _, parts, _ in response.topics for part in parts)]
    for code in filter(None, codes):
        kind = errors.for_code(code)
        if kind in (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError):
            coordinator.coordinator_dead()
            return None
        if code == UNSTABLE_OFFSET_COMMIT or kind is errors.GroupLoadInProgressError or kind.retriable:
            return None
        raise kind()
    return {
        TopicPartition(topic, part[0]): (part[1], part[3] or "")
        for topic, parts, _ in response.topics
        for part in parts
        if part[1] >= 0
    }


# -- offsets inside a transaction -------------------------------------------------------------
class _TxnOffsetCommitResponse(Response):  # type: ignore[misc]
    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommitStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 28
    API_VERSION = 3
    RESPONSE_TYPE = _TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation", Int32),
        ("member", _TEXT),
        ("instance", _TEXT),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommit(Request[_TxnOffsetCommitStruct]):  # type: ignore[misc]
    API_KEY = 28

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[_TxnOffsetCommitStruct]) -> _TxnOffsetCommitStruct:
        return request_struct_class(*self._fields, {})


class _FencedOffsetCommit(TxnOffsetCommitHandler):  # type: ignore[misc]
    """aiokafka's own, with the member's generation in the request and an abort for who lost its partitions."""

    def __init__(self, sender: Any, offsets: Mapping[Any, Any], who: OffsetCommit) -> None:
        super().__init__(sender, offsets, who.group)
        self._who = who

    def create_request(self) -> Any:
        transaction = self._sender._txn_manager
        topics: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for partition, committed in sorted(self._offsets.items()):
            topics[partition.topic].append((partition.partition, committed.offset, -1, committed.metadata, {}))
        who = self._who
        return _TxnOffsetCommit(
            transaction.transactional_id,
            who.group,
            transaction.producer_id,
            transaction.producer_epoch,
            who.generation,
            who.member,
            who.instance,
            [(topic, partitions, {}) for topic, partitions in topics.items()],
        )

    def handle_response(self, response: Any) -> Any:
        for _, partitions, _ in response.errors:
            for _, code, _ in partitions:
                if code in _LOST:
                    self._sender._txn_manager.error_transaction(PartitionLost(_LOST[code]))
                    return None
        response.errors = [(topic, [part[:2] for part in parts]) for topic, parts, _ in response.errors]
        return super().handle_response(response)


async def send_offsets(producer: Any, commit: OffsetCommit) -> None:
    """As ``producer.send_offsets_to_transaction``, fenced by the member's generation.

    Raises:
        PartitionLost: abort; the partitions have another owner.
    """
    sender: Any = producer._sender

    async def send(pending: Mapping[Any, Any], group: str) -> None:
        node = await sender._find_coordinator(CoordinationType.GROUP, group)
        await _FencedOffsetCommit(sender, pending, commit).do(node)

    sender._do_txn_offset_commit = send
    offsets = {TopicPartition(*place): OffsetAndMetadata(*state) for place, state in commit.offsets.items()}
    await producer.send_offsets_to_transaction(offsets, commit.group)
