"""Messages of apache.rocketmq.v2; this package must not be loaded beside an official client."""
