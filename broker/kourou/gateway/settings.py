"""What a client is told in answer to its settings: its own, filled in by what holds for it here."""

from __future__ import annotations

from kourou.core.limits import BODY_BYTES_MAX
from kourou.core.retry import RetryPolicy
from kourou.gateway.messaging import GroupView
from kourou.proto.rocketmq.v2 import definition_pb2 as pb

PRODUCER_ATTEMPTS = 3
PRODUCER_BACKOFF_MS = (10, 1_000)
RECEIVE_BATCH = 32
LONG_POLL_S = 20
LITE_QUOTA = 2_000
LITE_TOPIC_SIZE = 64


def merged(asked: pb.Settings, group: GroupView | None, *, fifo: bool) -> pb.Settings:
    """Names are echoed as they came; clients take the whole of it over."""
    settings = pb.Settings()
    settings.CopyFrom(asked)
    settings.metric.CopyFrom(pb.Metric(on=False))
    if settings.HasField("publishing"):
        publishing = settings.publishing
        publishing.validate_message_type = True
        publishing.max_body_size = BODY_BYTES_MAX
        policy = settings.backoff_policy
        policy.Clear()
        policy.max_attempts = PRODUCER_ATTEMPTS
        _exponential(policy, *PRODUCER_BACKOFF_MS, 2.0)
        return settings
    subscription = settings.subscription
    subscription.fifo = fifo
    subscription.receive_batch_size = RECEIVE_BATCH
    subscription.long_polling_timeout.seconds = LONG_POLL_S
    subscription.long_polling_timeout.nanos = 0
    if settings.client_type in (pb.LITE_PUSH_CONSUMER, pb.LITE_SIMPLE_CONSUMER):
        subscription.lite_subscription_quota = LITE_QUOTA
        subscription.max_lite_topic_size = LITE_TOPIC_SIZE
    policy = settings.backoff_policy
    policy.Clear()
    retry = group.retry if group is not None else RetryPolicy()
    policy.max_attempts = group.max_attempts if group is not None else 17
    if retry.initial_ms:
        _exponential(policy, retry.initial_ms, retry.max_ms, retry.multiplier)
    else:
        for delay_ms in retry.delays_ms:
            step = policy.customized_backoff.next.add()
            step.seconds, step.nanos = delay_ms // 1000, delay_ms % 1000 * 1_000_000
    return settings


def _exponential(policy: pb.RetryPolicy, initial_ms: int, max_ms: int, multiplier: float) -> None:
    backoff = policy.exponential_backoff
    backoff.initial.seconds, backoff.initial.nanos = initial_ms // 1000, initial_ms % 1000 * 1_000_000
    backoff.max.seconds, backoff.max.nanos = max_ms // 1000, max_ms % 1000 * 1_000_000
    backoff.multiplier = multiplier
