"""The official API (apache.rocketmq.v2) over a ``Messaging`` that is here or at a distance."""
