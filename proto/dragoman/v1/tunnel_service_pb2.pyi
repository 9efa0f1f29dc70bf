import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallSignal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALL_SIGNAL_UNSPECIFIED: _ClassVar[CallSignal]
    CALL_SIGNAL_CANCEL: _ClassVar[CallSignal]
    CALL_SIGNAL_PAUSE: _ClassVar[CallSignal]
    CALL_SIGNAL_RESUME: _ClassVar[CallSignal]
CALL_SIGNAL_UNSPECIFIED: CallSignal
CALL_SIGNAL_CANCEL: CallSignal
CALL_SIGNAL_PAUSE: CallSignal
CALL_SIGNAL_RESUME: CallSignal

class ConnectRequest(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[RequestFrame]
    def __init__(self, frames: _Optional[_Iterable[_Union[RequestFrame, _Mapping]]] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[ResponseFrame]
    def __init__(self, frames: _Optional[_Iterable[_Union[ResponseFrame, _Mapping]]] = ...) -> None: ...

class RequestFrame(_message.Message):
    __slots__ = ("call_id", "open", "request", "signal")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    open: OpenCall
    request: bytes
    signal: CallSignal
    def __init__(self, call_id: _Optional[int] = ..., open: _Optional[_Union[OpenCall, _Mapping]] = ..., request: _Optional[bytes] = ..., signal: _Optional[_Union[CallSignal, str]] = ...) -> None: ...

class OpenCall(_message.Message):
    __slots__ = ("method", "metadata", "timeout", "request_size", "request")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_SIZE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    method: str
    metadata: _containers.RepeatedCompositeFieldContainer[CallMetadata]
    timeout: _duration_pb2.Duration
    request_size: int
    request: bytes
    def __init__(self, method: _Optional[str] = ..., metadata: _Optional[_Iterable[_Union[CallMetadata, _Mapping]]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., request_size: _Optional[int] = ..., request: _Optional[bytes] = ...) -> None: ...

class CallMetadata(_message.Message):
    __slots__ = ("key", "text", "binary")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BINARY_FIELD_NUMBER: _ClassVar[int]
    key: str
    text: str
    binary: bytes
    def __init__(self, key: _Optional[str] = ..., text: _Optional[str] = ..., binary: _Optional[bytes] = ...) -> None: ...

class ResponseFrame(_message.Message):
    __slots__ = ("call_id", "message", "message_part", "end")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_PART_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    message: bytes
    message_part: bytes
    end: CallEnd
    def __init__(self, call_id: _Optional[int] = ..., message: _Optional[bytes] = ..., message_part: _Optional[bytes] = ..., end: _Optional[_Union[CallEnd, _Mapping]] = ...) -> None: ...

class CallEnd(_message.Message):
    __slots__ = ("code", "details", "trailing_metadata", "initial_metadata")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    TRAILING_METADATA_FIELD_NUMBER: _ClassVar[int]
    INITIAL_METADATA_FIELD_NUMBER: _ClassVar[int]
    code: int
    details: str
    trailing_metadata: _containers.RepeatedCompositeFieldContainer[CallMetadata]
    initial_metadata: _containers.RepeatedCompositeFieldContainer[CallMetadata]
    def __init__(self, code: _Optional[int] = ..., details: _Optional[str] = ..., trailing_metadata: _Optional[_Iterable[_Union[CallMetadata, _Mapping]]] = ..., initial_metadata: _Optional[_Iterable[_Union[CallMetadata, _Mapping]]] = ...) -> None: ...
