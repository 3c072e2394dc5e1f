"""Generated code of the official protocol (proto/apache/rocketmq)."""
