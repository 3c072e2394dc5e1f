"""Metrics: collected when asked, one registry each."""

from __future__ import annotations

from kourou.runtime.metrics import Family, Metrics


def test_numbers_are_read_when_somebody_asks() -> None:
    metrics, value = Metrics(), 1
    family = Family(cluster="c", node_type="broker", node_id="b1")
    metrics.add(lambda: [family.counter("rocketmq_messages_in", "Messages stored", value)])
    labels = '{cluster="c",node_id="b1",node_type="broker"}'
    assert f"rocketmq_messages_in_total{labels} 1.0" in _lines(metrics)
    value = 2
    assert f"rocketmq_messages_in_total{labels} 2.0" in _lines(metrics)


def test_registries_are_apart() -> None:
    one, two = Metrics(), Metrics()
    one.add(lambda: [Family(node_id="one").gauge("kourou_x", "X", 1)])
    two.add(lambda: [Family(node_id="two").gauge("kourou_x", "X", 2)])
    assert 'kourou_x{node_id="one"} 1.0' in _lines(one)
    assert [line for line in _lines(two) if not line.startswith("#")] == ['kourou_x{node_id="two"} 2.0']


def test_histogram_buckets_add_up() -> None:
    metrics = Metrics()
    metrics.add(lambda: [Family().histogram("kourou_lag_ms", "Lag", (1, 5), (3, 2, 1), 40.0)])
    assert [line for line in _lines(metrics) if not line.startswith("#")] == [
        'kourou_lag_ms_bucket{le="1"} 3.0',
        'kourou_lag_ms_bucket{le="5"} 5.0',
        'kourou_lag_ms_bucket{le="+Inf"} 6.0',
        "kourou_lag_ms_count 6.0",
        "kourou_lag_ms_sum 40.0",
    ]


def test_rows_with_further_labels_are_escaped() -> None:
    metrics = Metrics()
    rows = [(("g1", 'a"b'), 3.0), (("g2", "t"), 0.0)]
    metrics.add(
        lambda: [Family(cluster="c").gauges("rocketmq_consumer_lag_messages", "Lag", ("consumer_group", "topic"), rows)]
    )
    assert r'rocketmq_consumer_lag_messages{cluster="c",consumer_group="g1",topic="a\"b"} 3.0' in _lines(metrics)


def _lines(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()
