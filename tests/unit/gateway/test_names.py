"""A namespace and a name make one of our names; who asks is in the metadata."""

from __future__ import annotations

import pytest

from kourou.gateway.names import client_id, group_name, topic_name
from kourou.gateway.status import Code, Refused
from kourou.proto.rocketmq.v2 import definition_pb2 as pb
from tests.unit.gateway.call import FakeCall


@pytest.mark.parametrize(
    ("name", "own", "header", "ours"),
    [
        ("t", "", "", "t"),
        ("t", "ns", "", "ns%t"),
        ("t", "", "ns", "ns%t"),
        ("t", "ns", "other", "ns%t"),
        ("%DLQ%g", "", "", "%DLQ%g"),
        ("%DLQ%g", "", "ns", "%DLQ%ns%g"),
    ],
)
def test_namespaces(name: str, own: str, header: str, ours: str) -> None:
    """Node puts its namespace into the header alone of some calls: both must be the same topic."""
    call = FakeCall(x_mq_namespace=header)
    assert topic_name(pb.Resource(name=name, resource_namespace=own), call) == ours


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a/b", "é", "t" * 128, "TBW102", "rmq_sys_x", "RMQ_SYS_TRANS_HALF_TOPIC", "a\0"]
)
def test_topics_that_are_not_legal(name: str) -> None:
    with pytest.raises(Refused) as refused:
        topic_name(pb.Resource(name=name), FakeCall())
    assert refused.value.code == Code.ILLEGAL_TOPIC


@pytest.mark.parametrize(
    ("name", "namespace"), [("", ""), ("g" * 121, ""), ("CID_RMQ_SYS_x", ""), ("g", "é"), ("g", "n" * 120)]
)
def test_groups_that_are_not_legal(name: str, namespace: str) -> None:
    with pytest.raises(Refused) as refused:
        group_name(pb.Resource(name=name, resource_namespace=namespace), FakeCall())
    assert refused.value.code == Code.ILLEGAL_CONSUMER_GROUP


@pytest.mark.parametrize("client", ["", "  ", "x" * 256])
def test_clients_must_say_who_they_are(client: str) -> None:
    with pytest.raises(Refused) as refused:
        client_id(FakeCall(client=client))
    assert refused.value.code == Code.CLIENT_ID_REQUIRED


def test_client_ids() -> None:
    assert client_id(FakeCall(client=" host@1@2@3 ")) == "host@1@2@3"
