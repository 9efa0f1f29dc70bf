import datetime

from dragoman.v1 import failure_pb2 as _failure_pb2
from dragoman.v1 import message_pb2 as _message_pb2
from dragoman.v1 import usage_pb2 as _usage_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_TOOL_CALLS: _ClassVar[FinishReason]
    FINISH_REASON_CONTENT_FILTER: _ClassVar[FinishReason]

class CancelReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANCEL_REASON_UNSPECIFIED: _ClassVar[CancelReason]
    CANCEL_REASON_REQUESTED: _ClassVar[CancelReason]
    CANCEL_REASON_DISCONNECTED: _ClassVar[CancelReason]
    CANCEL_REASON_SHUTDOWN: _ClassVar[CancelReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_TOOL_CALLS: FinishReason
FINISH_REASON_CONTENT_FILTER: FinishReason
CANCEL_REASON_UNSPECIFIED: CancelReason
CANCEL_REASON_REQUESTED: CancelReason
CANCEL_REASON_DISCONNECTED: CancelReason
CANCEL_REASON_SHUTDOWN: CancelReason

class RunEvent(_message.Message):
    __slots__ = ("sequence", "event_time", "ignorable", "run_started", "step_started", "step_restarted", "text_delta", "reasoning_delta", "refusal_delta", "tool_call_started", "tool_call_arguments_delta", "tool_call_completed", "tool_progress", "tool_result", "service_result", "artifact_created", "choice_finished", "usage_reported", "step_completed", "run_completed", "run_failed", "run_cancelled", "audio_delta")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    IGNORABLE_FIELD_NUMBER: _ClassVar[int]
    RUN_STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_STARTED_FIELD_NUMBER: _ClassVar[int]
    STEP_RESTARTED_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    REASONING_DELTA_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_STARTED_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_ARGUMENTS_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    TOOL_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TOOL_RESULT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_RESULT_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_CREATED_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FINISHED_FIELD_NUMBER: _ClassVar[int]
    USAGE_REPORTED_FIELD_NUMBER: _ClassVar[int]
    STEP_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    RUN_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    RUN_FAILED_FIELD_NUMBER: _ClassVar[int]
    RUN_CANCELLED_FIELD_NUMBER: _ClassVar[int]
    AUDIO_DELTA_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event_time: _timestamp_pb2.Timestamp
    ignorable: bool
    run_started: RunStarted
    step_started: StepStarted
    step_restarted: StepRestarted
    text_delta: TextDelta
    reasoning_delta: ReasoningDelta
    refusal_delta: RefusalDelta
    tool_call_started: ToolCallStarted
    tool_call_arguments_delta: ToolCallArgumentsDelta
    tool_call_completed: ToolCallCompleted
    tool_progress: ToolProgress
    tool_result: ToolResultReceived
    service_result: ServiceResult
    artifact_created: ArtifactCreated
    choice_finished: ChoiceFinished
    usage_reported: UsageReported
    step_completed: StepCompleted
    run_completed: RunCompleted
    run_failed: RunFailed
    run_cancelled: RunCancelled
    audio_delta: AudioDelta
    def __init__(self, sequence: _Optional[int] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ignorable: _Optional[bool] = ..., run_started: _Optional[_Union[RunStarted, _Mapping]] = ..., step_started: _Optional[_Union[StepStarted, _Mapping]] = ..., step_restarted: _Optional[_Union[StepRestarted, _Mapping]] = ..., text_delta: _Optional[_Union[TextDelta, _Mapping]] = ..., reasoning_delta: _Optional[_Union[ReasoningDelta, _Mapping]] = ..., refusal_delta: _Optional[_Union[RefusalDelta, _Mapping]] = ..., tool_call_started: _Optional[_Union[ToolCallStarted, _Mapping]] = ..., tool_call_arguments_delta: _Optional[_Union[ToolCallArgumentsDelta, _Mapping]] = ..., tool_call_completed: _Optional[_Union[ToolCallCompleted, _Mapping]] = ..., tool_progress: _Optional[_Union[ToolProgress, _Mapping]] = ..., tool_result: _Optional[_Union[ToolResultReceived, _Mapping]] = ..., service_result: _Optional[_Union[ServiceResult, _Mapping]] = ..., artifact_created: _Optional[_Union[ArtifactCreated, _Mapping]] = ..., choice_finished: _Optional[_Union[ChoiceFinished, _Mapping]] = ..., usage_reported: _Optional[_Union[UsageReported, _Mapping]] = ..., step_completed: _Optional[_Union[StepCompleted, _Mapping]] = ..., run_completed: _Optional[_Union[RunCompleted, _Mapping]] = ..., run_failed: _Optional[_Union[RunFailed, _Mapping]] = ..., run_cancelled: _Optional[_Union[RunCancelled, _Mapping]] = ..., audio_delta: _Optional[_Union[AudioDelta, _Mapping]] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("model", "rate_state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RATE_STATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    rate_state: _usage_pb2.RateState
    def __init__(self, model: _Optional[str] = ..., rate_state: _Optional[_Union[_usage_pb2.RateState, _Mapping]] = ...) -> None: ...

class StepStarted(_message.Message):
    __slots__ = ("step_id", "provider", "upstream_model", "attempt", "dropped_params", "emulated_features")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_PARAMS_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    step_id: str
    provider: str
    upstream_model: str
    attempt: int
    dropped_params: _containers.RepeatedScalarFieldContainer[str]
    emulated_features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, step_id: _Optional[str] = ..., provider: _Optional[str] = ..., upstream_model: _Optional[str] = ..., attempt: _Optional[int] = ..., dropped_params: _Optional[_Iterable[str]] = ..., emulated_features: _Optional[_Iterable[str]] = ...) -> None: ...

class StepRestarted(_message.Message):
    __slots__ = ("step_id", "discards_from_sequence")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    DISCARDS_FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    step_id: str
    discards_from_sequence: int
    def __init__(self, step_id: _Optional[str] = ..., discards_from_sequence: _Optional[int] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("choice_index", "text", "logprobs", "citations")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CITATIONS_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    text: str
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    citations: _containers.RepeatedCompositeFieldContainer[_message_pb2.Citation]
    def __init__(self, choice_index: _Optional[int] = ..., text: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ..., citations: _Optional[_Iterable[_Union[_message_pb2.Citation, _Mapping]]] = ...) -> None: ...

class ReasoningDelta(_message.Message):
    __slots__ = ("choice_index", "text", "signature", "redacted")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    text: str
    signature: bytes
    redacted: bool
    def __init__(self, choice_index: _Optional[int] = ..., text: _Optional[str] = ..., signature: _Optional[bytes] = ..., redacted: _Optional[bool] = ...) -> None: ...

class RefusalDelta(_message.Message):
    __slots__ = ("choice_index", "text", "logprobs")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    text: str
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, choice_index: _Optional[int] = ..., text: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class AudioDelta(_message.Message):
    __slots__ = ("choice_index", "audio_id", "data", "transcript", "expire_time")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    AUDIO_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    audio_id: str
    data: bytes
    transcript: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, choice_index: _Optional[int] = ..., audio_id: _Optional[str] = ..., data: _Optional[bytes] = ..., transcript: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token", "logprob", "token_bytes", "top")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    token: str
    logprob: float
    token_bytes: bytes
    top: _containers.RepeatedCompositeFieldContainer[TopLogprob]
    def __init__(self, token: _Optional[str] = ..., logprob: _Optional[float] = ..., token_bytes: _Optional[bytes] = ..., top: _Optional[_Iterable[_Union[TopLogprob, _Mapping]]] = ...) -> None: ...

class TopLogprob(_message.Message):
    __slots__ = ("token", "logprob", "token_bytes")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    token: str
    logprob: float
    token_bytes: bytes
    def __init__(self, token: _Optional[str] = ..., logprob: _Optional[float] = ..., token_bytes: _Optional[bytes] = ...) -> None: ...

class ToolCallStarted(_message.Message):
    __slots__ = ("choice_index", "call_index", "call_id", "name", "tool_kind", "signature")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    CALL_INDEX_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOOL_KIND_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    call_index: int
    call_id: str
    name: str
    tool_kind: _message_pb2.ToolKind
    signature: bytes
    def __init__(self, choice_index: _Optional[int] = ..., call_index: _Optional[int] = ..., call_id: _Optional[str] = ..., name: _Optional[str] = ..., tool_kind: _Optional[_Union[_message_pb2.ToolKind, str]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ToolCallArgumentsDelta(_message.Message):
    __slots__ = ("choice_index", "call_index", "arguments")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    CALL_INDEX_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    call_index: int
    arguments: str
    def __init__(self, choice_index: _Optional[int] = ..., call_index: _Optional[int] = ..., arguments: _Optional[str] = ...) -> None: ...

class ToolCallCompleted(_message.Message):
    __slots__ = ("choice_index", "call_index")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    CALL_INDEX_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    call_index: int
    def __init__(self, choice_index: _Optional[int] = ..., call_index: _Optional[int] = ...) -> None: ...

class ToolProgress(_message.Message):
    __slots__ = ("call_id", "fraction", "message")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    fraction: float
    message: str
    def __init__(self, call_id: _Optional[str] = ..., fraction: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...

class ToolResultReceived(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _message_pb2.ToolResult
    def __init__(self, result: _Optional[_Union[_message_pb2.ToolResult, _Mapping]] = ...) -> None: ...

class ServiceResult(_message.Message):
    __slots__ = ("service", "result_json")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    service: str
    result_json: str
    def __init__(self, service: _Optional[str] = ..., result_json: _Optional[str] = ...) -> None: ...

class ArtifactCreated(_message.Message):
    __slots__ = ("artifact_id", "media_type", "size_bytes")
    ARTIFACT_ID_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    artifact_id: str
    media_type: str
    size_bytes: int
    def __init__(self, artifact_id: _Optional[str] = ..., media_type: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ChoiceFinished(_message.Message):
    __slots__ = ("choice_index", "finish_reason", "stop_sequence")
    CHOICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    choice_index: int
    finish_reason: FinishReason
    stop_sequence: str
    def __init__(self, choice_index: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., stop_sequence: _Optional[str] = ...) -> None: ...

class UsageReported(_message.Message):
    __slots__ = ("last_call", "run_total")
    LAST_CALL_FIELD_NUMBER: _ClassVar[int]
    RUN_TOTAL_FIELD_NUMBER: _ClassVar[int]
    last_call: _usage_pb2.Usage
    run_total: _usage_pb2.Usage
    def __init__(self, last_call: _Optional[_Union[_usage_pb2.Usage, _Mapping]] = ..., run_total: _Optional[_Union[_usage_pb2.Usage, _Mapping]] = ...) -> None: ...

class StepCompleted(_message.Message):
    __slots__ = ("step_id", "usage")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    step_id: str
    usage: _usage_pb2.Usage
    def __init__(self, step_id: _Optional[str] = ..., usage: _Optional[_Union[_usage_pb2.Usage, _Mapping]] = ...) -> None: ...

class RunCompleted(_message.Message):
    __slots__ = ("charge", "conversation_id", "message_ids")
    CHARGE_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_IDS_FIELD_NUMBER: _ClassVar[int]
    charge: _usage_pb2.Charge
    conversation_id: str
    message_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, charge: _Optional[_Union[_usage_pb2.Charge, _Mapping]] = ..., conversation_id: _Optional[str] = ..., message_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RunFailed(_message.Message):
    __slots__ = ("failure",)
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    failure: _failure_pb2.Failure
    def __init__(self, failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ...) -> None: ...

class RunCancelled(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: CancelReason
    def __init__(self, reason: _Optional[_Union[CancelReason, str]] = ...) -> None: ...
