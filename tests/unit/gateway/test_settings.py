"""What clients are told in answer to their settings."""

from __future__ import annotations

import pytest

from kourou.core.limits import BODY_BYTES_MAX
from kourou.core.retry import DELAYS_MS, RetryPolicy
from kourou.core.views import GroupView
from kourou.gateway.settings import LITE_QUOTA, merged
from kourou.proto.rocketmq.v2 import definition_pb2 as pb


def producer() -> pb.Settings:
    settings = pb.Settings(client_type=pb.PRODUCER)
    settings.publishing.topics.add(name="t", resource_namespace="ns")
    settings.publishing.max_body_size = 1 << 27
    settings.publishing.validate_message_type = False
    settings.access_point.scheme = pb.DOMAIN_NAME
    settings.access_point.addresses.add(host="mq.example", port=8081)
    settings.user_agent.language = pb.RUST
    settings.client_properties["a"] = "b"
    settings.metric.on = True
    return settings


def consumer(kind: int = pb.PUSH_CONSUMER) -> pb.Settings:
    settings = pb.Settings(client_type=kind)  # type: ignore[arg-type]
    settings.subscription.group.name = "g"
    settings.subscription.fifo = True
    settings.subscription.long_polling_timeout.nanos = 7
    settings.subscription.subscriptions.add(topic=pb.Resource(name="t"))
    settings.backoff_policy.exponential_backoff.multiplier = 9
    return settings


def group(**fields: object) -> GroupView:
    return GroupView(**{"name": "g", "fifo": False, "max_attempts": 5, "retry": RetryPolicy(), **fields})  # type: ignore[arg-type]


def test_a_producer() -> None:
    asked = producer()
    told = merged(asked, None, fifo=False)
    assert told.publishing.validate_message_type
    assert told.publishing.max_body_size == BODY_BYTES_MAX
    assert told.backoff_policy.WhichOneof("strategy") == "exponential_backoff"
    assert told.backoff_policy.max_attempts == 3
    assert told.backoff_policy.exponential_backoff.initial.nanos == 10_000_000
    assert told.HasField("metric")
    assert not told.metric.on
    for name in ("client_type", "access_point", "user_agent", "client_properties"):
        assert getattr(told, name) == getattr(asked, name), name
    assert told.publishing.topics == asked.publishing.topics  # C++ takes over the namespace that it finds here
    assert asked == producer()


@pytest.mark.parametrize("fifo", [False, True])
def test_a_consumer(fifo: bool) -> None:
    asked = consumer()
    told = merged(asked, group(), fifo=fifo)
    assert told.subscription.fifo is fifo
    assert told.subscription.receive_batch_size == 32
    assert (told.subscription.long_polling_timeout.seconds, told.subscription.long_polling_timeout.nanos) == (20, 0)
    assert told.subscription.subscriptions == asked.subscription.subscriptions
    assert told.backoff_policy.max_attempts == 5
    steps = told.backoff_policy.customized_backoff.next
    assert [step.seconds * 1000 + step.nanos // 1_000_000 for step in steps] == list(DELAYS_MS)
    assert not told.subscription.HasField("lite_subscription_quota")


def test_a_group_with_delays_of_its_own() -> None:
    told = merged(consumer(), group(retry=RetryPolicy((1, 1_500))), fifo=False)
    assert [(step.seconds, step.nanos) for step in told.backoff_policy.customized_backoff.next] == [
        (0, 1_000_000),
        (1, 500_000_000),
    ]
    told = merged(consumer(), group(retry=RetryPolicy((), 500, 60_000, 3.0)), fifo=False)
    backoff = told.backoff_policy.exponential_backoff
    assert (backoff.initial.nanos, backoff.max.seconds, backoff.multiplier) == (500_000_000, 60, 3.0)
    assert not told.backoff_policy.HasField("customized_backoff")


@pytest.mark.parametrize("kind", [pb.LITE_PUSH_CONSUMER, pb.LITE_SIMPLE_CONSUMER])
def test_lite_consumers_get_their_quota(kind: int) -> None:
    """Clients take a quota that is not there for 0, and refuse their first subscription."""
    told = merged(consumer(kind), None, fifo=True)
    assert told.subscription.lite_subscription_quota == LITE_QUOTA
    assert told.subscription.max_lite_topic_size == 64


def test_a_group_that_is_not_known_yet() -> None:
    told = merged(consumer(), None, fifo=False)
    assert told.backoff_policy.max_attempts > 0
    assert told.backoff_policy.customized_backoff.next


def test_merging_again_changes_nothing() -> None:
    for asked in (producer(), consumer()):
        once = merged(asked, group(), fifo=True)
        assert merged(once, group(), fifo=True) == once
