from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BrokerMessage(_message.Message):
    __slots__ = ("report", "heartbeat")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    report: BrokerReport
    heartbeat: Heartbeat
    def __init__(self, report: _Optional[_Union[BrokerReport, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class BrokerReport(_message.Message):
    __slots__ = ("cluster", "broker", "broker_id", "epoch", "master", "advertised", "port", "version", "topics", "official_port", "official_advertised")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    BROKER_FIELD_NUMBER: _ClassVar[int]
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MASTER_FIELD_NUMBER: _ClassVar[int]
    ADVERTISED_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    OFFICIAL_PORT_FIELD_NUMBER: _ClassVar[int]
    OFFICIAL_ADVERTISED_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    broker: str
    broker_id: int
    epoch: int
    master: bool
    advertised: str
    port: int
    version: str
    topics: _containers.RepeatedCompositeFieldContainer[TopicDefinition]
    official_port: int
    official_advertised: str
    def __init__(self, cluster: _Optional[str] = ..., broker: _Optional[str] = ..., broker_id: _Optional[int] = ..., epoch: _Optional[int] = ..., master: _Optional[bool] = ..., advertised: _Optional[str] = ..., port: _Optional[int] = ..., version: _Optional[str] = ..., topics: _Optional[_Iterable[_Union[TopicDefinition, _Mapping]]] = ..., official_port: _Optional[int] = ..., official_advertised: _Optional[str] = ...) -> None: ...

class TopicDefinition(_message.Message):
    __slots__ = ("name", "type", "placement", "created_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    placement: _containers.RepeatedCompositeFieldContainer[Placement]
    created_ms: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., placement: _Optional[_Iterable[_Union[Placement, _Mapping]]] = ..., created_ms: _Optional[int] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("broker", "queues")
    BROKER_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    broker: str
    queues: int
    def __init__(self, broker: _Optional[str] = ..., queues: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class NameserverMessage(_message.Message):
    __slots__ = ("nameserver", "version")
    NAMESERVER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    nameserver: str
    version: int
    def __init__(self, nameserver: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...
