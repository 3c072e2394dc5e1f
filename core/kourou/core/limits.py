"""Every limit that crosses the wire or the disk, in one place. A peer learns the ones that bind it in HELLO."""

from __future__ import annotations

from typing import Final

BODY_BYTES_MAX: Final = 4 * 1024 * 1024  # one message's body; RocketMQ's default
PROPERTIES_BYTES_MAX: Final = 16 * 1024  # tag, keys and properties of one message together, UTF-8; RocketMQ's default
PROPERTIES_COUNT_MAX: Final = 128
KEYS_COUNT_MAX: Final = 64
TOPIC_CHARACTERS_MAX: Final = 127
GROUP_CHARACTERS_MAX: Final = 120
MESSAGE_GROUP_BYTES_MAX: Final = 63
LITE_TOPIC_CHARACTERS_MAX: Final = 64
CLIENT_ID_CHARACTERS_MAX: Final = 255
RECORDS_PER_FRAME_MAX: Final = 65_536  # an index fits the 16 bits it has in a message id
FRAME_BYTES_MAX: Final = 8 * 1024 * 1024  # sealed part; also the cap of its records after inflation
FRAMES_PER_REQUEST_MAX: Final = 1_024
INFLATE_RATIO_MAX: Final = 100  # beyond it a compressed frame is refused as a bomb (small frames are let off)
WIRE_BYTES_MAX: Final = 16 * 1024 * 1024  # one data-plane message
HELLO_BYTES_MAX: Final = 8 * 1024  # the first message of a connection, whose sender nobody knows yet
WIRE_HEADER_BYTES_MAX: Final = 64 * 1024
JSON_BYTES_MAX: Final = 1024 * 1024  # one self-describing body
QUEUES_PER_TOPIC_MAX: Final = 100_000
PRODUCER_WINDOW: Final = 64  # sequences with results that a broker keeps for each producer
