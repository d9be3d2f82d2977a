"""Two questions to Kafka's brokers in the forms whose answers say what we may do, which aiokafka's own do not."""

from __future__ import annotations

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

TEXT, NUMBERS = String("utf-8"), Array(Int32)


async def described_topic(admin: AIOKafkaAdminClient, name: str) -> dict[str, Any]:
    """What a broker says of the topic, `error_code` included; it is not created, also not where brokers do so by themselves."""
    [found] = (await admin._send_request(_Topic(name))).to_object()["topics"]
    return dict(found)


async def described_group(admin: AIOKafkaAdminClient, name: str) -> dict[str, Any]:
    """What the group's coordinator says of it, of one that nobody has joined as well. Raises KafkaError."""
    answer = await admin._send_request(_Group(name), await admin.find_coordinator(name))
    [found] = answer.to_object()["groups"]
    if found["error_code"]:
        raise for_code(found["error_code"])(name)
    return dict(found)


class _TopicAnswer(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 3, 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT))),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        ("topics", Array(
            ("error_code", Int16),
            ("topic", TEXT),
            ("is_internal", Boolean),
            ("partitions", Array(
                ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
                ("replicas", NUMBERS), ("isr", NUMBERS), ("offline_replicas", NUMBERS),
            )),
            ("authorized_operations", Int32),
        )),
        ("cluster_authorized_operations", Int32),
    )  # fmt: skip


class _TopicQuestion(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE = 3, 8, _TopicAnswer
    SCHEMA = Schema(("topics", Array(TEXT)), ("create", Boolean), ("operations_on_cluster", Boolean), ("operations_on_topics", Boolean))


class _Topic(Request[_TopicQuestion]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, request_struct_class: type[_TopicQuestion]) -> _TopicQuestion:
        return request_struct_class([self.name], False, False, True)


class _GroupQuestion(DescribeGroupsRequest_v3):  # type: ignore[misc]
    RESPONSE_TYPE = DescribeGroupsResponse_v3  # aiokafka reads the answer as if it ended before what we may do


class _Group(Request[_GroupQuestion]):  # type: ignore[misc]
    API_KEY = 15

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, request_struct_class: type[_GroupQuestion]) -> _GroupQuestion:
        return request_struct_class([self.name], True)
