"""What one peer, and all peers together, may make the server hold or do."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Every bound of the engine. Rates are (burst, per second): a bucket of the burst that refills at that pace."""

    connections_max: int = 20_000
    """Beyond it a new connection is closed at once."""
    streams_max: int = 1_000
    """Open calls of a connection; told to the client, which queues the rest itself. Beyond it: REFUSED_STREAM."""
    message_bytes_max: int = 16 * MIB
    """Of one message, also after decompression. Beyond it the call ends with RESOURCE_EXHAUSTED. RocketMQ's own is 4 MiB."""
    header_list_bytes_max: int = 16 * KIB
    """Of a call's headers, counted as RFC 9113 does (32 bytes more for each). gRPC servers have 8 or 16 KiB."""
    stream_window_bytes: int = 128 * KIB
    """That a client may send of one call before it was taken. A larger message is let in whole as memory allows."""
    connection_window_bytes: int = 4 * MIB
    """That a client may send at one go on all its calls."""
    unanswered_bytes_max: int = 16 * MIB
    """Of one connection's whole messages that handlers are at work on. Beyond it the connection gets no more window."""
    unanswered_total_bytes_max: int = 512 * MIB
    """The same of all connections: beyond it only those that have nothing unanswered get window."""
    assembly_bytes_max: int = 64 * MIB
    """Of one connection's messages larger than the stream window that are let in at a time; the others wait. At least
    ``message_bytes_max`` counts."""
    call_output_bytes: int = 1 * MIB
    """Of one call's unsent messages; ``drain`` waits above it."""
    output_bytes_max: int = 64 * MIB
    """Of one connection's unsent bytes. Beyond it the connection is cut off: its peer asks much and reads nothing."""
    turn_bytes: int = 1 * MIB
    """That a connection writes in one turn of the loop before the others have theirs."""
    turn_calls: int = 256
    """That a connection may begin in one turn of the loop: what a client sends in one go must not hold it for long."""
    handshake_timeout_s: float = 10.0
    """Until the first SETTINGS, TLS included."""
    idle_timeout_s: float = 1_800.0
    """Without a call. The connection is then drained, so that no call is lost."""
    keepalive_s: float = 30.0
    """Of silence, after which we ask with a PING whether somebody is there."""
    keepalive_timeout_s: float = 20.0
    """That the answer may take."""
    unsent_timeout_s: float = 60.0
    """In which a peer must read something of what waits for it."""
    resets_rate: tuple[int, int] = (2_000, 200)
    """Calls that a client opens and cancels ("rapid reset"). Several times what a client with a thousand calls does
    when its network stumbles."""
    pings_rate: tuple[int, int] = (1_000, 100)
    """PINGs with nothing sent between them. Those that measure bandwidth follow data, and are free."""
    settings_rate: tuple[int, int] = (100, 5)
    """A client sends its settings once, a few change them now and then."""
    empty_rate: tuple[int, int] = (2_000, 200)
    """Frames that do nothing: DATA without bytes, PRIORITY, unknown types, frames of calls long gone."""
    continuations_max: int = 32
    """CONTINUATION frames of one header block."""

    def __post_init__(self) -> None:
        if self.message_bytes_max > 0x7FFF_0000:
            raise ValueError("message_bytes_max: a window can't hold more than 2 GiB")
        if min(self.stream_window_bytes, self.connection_window_bytes) < 65_535:
            raise ValueError("a window below 65,535 bytes can't be told to a client before it sends")
