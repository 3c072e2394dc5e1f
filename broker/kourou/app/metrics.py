"""The numbers of a broker, under RocketMQ's names where it has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from kourou.runtime.metrics import Family
from kourou.runtime.tasks import LoopLag

if TYPE_CHECKING:
    from kourou.app.node import BrokerNode

LAG_SERIES_MAX = 10_000  # of (group, topic) pairs; more would drown a scrape


def node_metrics(node: BrokerNode) -> Iterator[Metric]:
    identity, store = node.identity, node.store
    family = Family(cluster=identity.cluster, node_type="broker", node_id=identity.broker)
    yield family.counter("rocketmq_messages_in", "Messages stored", node.produce.messages_in)
    yield family.counter("rocketmq_throughput_in", "Bytes of messages stored", node.produce.bytes_in)
    yield family.counter("rocketmq_messages_out", "Messages delivered", node.delivery.messages_out)
    yield family.counter("rocketmq_throughput_out", "Bytes delivered", node.delivery.bytes_out)
    yield family.counter("kourou_frames_in", "Frames stored", node.produce.frames_in)
    yield family.counter("kourou_frames_refused", "Frames refused", node.produce.refused)
    yield family.counter("kourou_frames_duplicate", "Frames known from before", node.produce.duplicates)
    yield family.counter("kourou_cold_reads", "Deliveries that waited for the disk", node.delivery.cold_reads)
    yield family.counter(
        "kourou_readers_sent_to_slaves", "Queues of consumers that were far behind", node.delivery.sent_elsewhere
    )
    yield family.gauge("rocketmq_topic_number", "Topics", len(node.state.topics.all()))
    yield family.gauge("rocketmq_consumer_group_number", "Consumer groups", len(node.state.groups.all()))
    yield family.gauge("rocketmq_consumer_connections", "Subscriptions", node.subscriptions.count)
    yield family.gauge("rocketmq_storage_size", "Bytes of the log", store.end_offset - store.min_offset)
    yield family.gauge(
        "rocketmq_storage_flush_behind_bytes", "Bytes not yet durable", store.end_offset - store.synced_offset
    )
    yield family.gauge("kourou_disk_used_ratio", "Share of the file system that is used", store.space.ratio)
    yield family.gauge("kourou_disk_full", "1 while writes are refused for lack of room", store.space.full)
    yield family.gauge("kourou_log_damaged_ranges", "Ranges of the log that can't be read", len(store.damaged))
    yield family.gauge("kourou_epoch", "Epoch of the log", store.epoch)
    yield family.counter("kourou_snapshots", "Snapshots written", node.upkeep.snapshots)
    yield family.counter("kourou_segments_sealed", "Segments sealed", node.upkeep.segments_sealed)
    yield family.counter("kourou_segments_deleted", "Segments deleted by retention", node.upkeep.segments_deleted)
    yield family.counter(
        "kourou_messages_left_out", "Of shared groups: a producer stored what nobody can read", node.shared.left_out
    )
    yield family.gauge("kourou_lite_topics", "Lite topics", node.state.lite.total)
    timers = node.state.timers
    yield family.gauge("kourou_timers", "Messages that wait for their time", len(timers))
    yield family.gauge("kourou_timer_pages", "Pages of 4,096 of them that are in memory", timers.pages)
    yield family.gauge("kourou_timer_buckets", "Files that hold the others", len(timers.buckets))
    yield family.gauge("kourou_timer_late_max_ms", "The latest of them so far", node.timers.late_ms_max)
    if node.server is not None:
        yield family.gauge("kourou_connections", "Connections on the data plane", len(node.server.peers))
        yield family.gauge("kourou_in_flight_bytes", "Bytes of requests under way", node.server.in_flight_bytes)
        yield family.counter("kourou_peers_cut_off", "Connections cut off for bad manners", node.server.cut_off)
        yield family.counter("kourou_handler_bugs", "Requests that failed for a bug of ours", node.server.bugs)
    yield from lag_metrics(family, node.lag)
    yield _consumer_lag(node, family)


def lag_metrics(family: Family, lag: LoopLag) -> Iterator[Metric]:
    yield family.histogram("kourou_loop_lag_ms", "How long the event loop was held", lag.BOUNDS_MS, lag.buckets, lag.sum_ms)
    yield family.gauge("kourou_loop_lag_max_ms", "The longest the event loop was held", lag.max_ms)


def _consumer_lag(node: BrokerNode, family: Family) -> Metric:
    rows: list[tuple[tuple[str, str], float]] = []
    names = {topic.incarnation: topic for topic in node.state.topics.all()}
    for group in node.state.groups.all():
        for incarnation in node.state.offsets.topics_of(group.name):
            topic = names.get(incarnation)
            if topic is None or len(rows) >= LAG_SERIES_MAX:
                continue
            behind = 0
            for queue in range(topic.queues):
                low, high = node.positions.bounds(incarnation << 32 | queue)
                committed = node.state.offsets.committed(group.name, incarnation, queue)
                behind += high - max(low, committed if committed is not None else low)
            rows.append(((group.name, topic.name), behind))
    return family.gauges("rocketmq_consumer_lag_messages", "Messages not yet committed", ("consumer_group", "topic"), rows)
