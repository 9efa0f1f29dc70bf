import datetime

from dragoman.v1 import sampling_pb2 as _sampling_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("id", "owner", "provider", "upstream_model", "create_time", "context_length", "max_output_tokens", "input_modalities", "output_modalities", "capabilities", "is_default", "ready", "prices", "limits", "defaults", "clamps", "targets")
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: NumberRange
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[NumberRange, _Mapping]] = ...) -> None: ...
    class DefaultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    INPUT_MODALITIES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MODALITIES_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    PRICES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    CLAMPS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    id: str
    owner: str
    provider: str
    upstream_model: str
    create_time: _timestamp_pb2.Timestamp
    context_length: int
    max_output_tokens: int
    input_modalities: _containers.RepeatedScalarFieldContainer[_sampling_pb2.Modality]
    output_modalities: _containers.RepeatedScalarFieldContainer[_sampling_pb2.Modality]
    capabilities: ModelCapabilities
    is_default: bool
    ready: bool
    prices: ModelPrices
    limits: _containers.MessageMap[str, NumberRange]
    defaults: _containers.ScalarMap[str, float]
    clamps: bool
    targets: _containers.RepeatedCompositeFieldContainer[ModelTarget]
    def __init__(self, id: _Optional[str] = ..., owner: _Optional[str] = ..., provider: _Optional[str] = ..., upstream_model: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., context_length: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., input_modalities: _Optional[_Iterable[_Union[_sampling_pb2.Modality, str]]] = ..., output_modalities: _Optional[_Iterable[_Union[_sampling_pb2.Modality, str]]] = ..., capabilities: _Optional[_Union[ModelCapabilities, _Mapping]] = ..., is_default: _Optional[bool] = ..., ready: _Optional[bool] = ..., prices: _Optional[_Union[ModelPrices, _Mapping]] = ..., limits: _Optional[_Mapping[str, NumberRange]] = ..., defaults: _Optional[_Mapping[str, float]] = ..., clamps: _Optional[bool] = ..., targets: _Optional[_Iterable[_Union[ModelTarget, _Mapping]]] = ...) -> None: ...

class ModelPrices(_message.Message):
    __slots__ = ("currency_code", "input_micros", "output_micros", "cached_input_micros")
    CURRENCY_CODE_FIELD_NUMBER: _ClassVar[int]
    INPUT_MICROS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_MICROS_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_MICROS_FIELD_NUMBER: _ClassVar[int]
    currency_code: str
    input_micros: int
    output_micros: int
    cached_input_micros: int
    def __init__(self, currency_code: _Optional[str] = ..., input_micros: _Optional[int] = ..., output_micros: _Optional[int] = ..., cached_input_micros: _Optional[int] = ...) -> None: ...

class NumberRange(_message.Message):
    __slots__ = ("min", "max")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    min: float
    max: float
    def __init__(self, min: _Optional[float] = ..., max: _Optional[float] = ...) -> None: ...

class ModelTarget(_message.Message):
    __slots__ = ("provider", "upstream_model", "weight", "order", "health", "in_flight", "queued", "latency_ms", "fault")
    class Health(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        HEALTH_UNSPECIFIED: _ClassVar[ModelTarget.Health]
        HEALTH_UP: _ClassVar[ModelTarget.Health]
        HEALTH_DOWN: _ClassVar[ModelTarget.Health]
        HEALTH_PROBING: _ClassVar[ModelTarget.Health]
        HEALTH_LOADING: _ClassVar[ModelTarget.Health]
    HEALTH_UNSPECIFIED: ModelTarget.Health
    HEALTH_UP: ModelTarget.Health
    HEALTH_DOWN: ModelTarget.Health
    HEALTH_PROBING: ModelTarget.Health
    HEALTH_LOADING: ModelTarget.Health
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    provider: str
    upstream_model: str
    weight: int
    order: int
    health: ModelTarget.Health
    in_flight: int
    queued: int
    latency_ms: int
    fault: str
    def __init__(self, provider: _Optional[str] = ..., upstream_model: _Optional[str] = ..., weight: _Optional[int] = ..., order: _Optional[int] = ..., health: _Optional[_Union[ModelTarget.Health, str]] = ..., in_flight: _Optional[int] = ..., queued: _Optional[int] = ..., latency_ms: _Optional[int] = ..., fault: _Optional[str] = ...) -> None: ...

class ModelCapabilities(_message.Message):
    __slots__ = ("tools", "json_schema", "json_object", "logprobs", "reasoning", "vision", "chat", "embeddings", "parallel_tool_calls")
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    JSON_OBJECT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    VISION_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    tools: bool
    json_schema: bool
    json_object: bool
    logprobs: bool
    reasoning: bool
    vision: bool
    chat: bool
    embeddings: bool
    parallel_tool_calls: bool
    def __init__(self, tools: _Optional[bool] = ..., json_schema: _Optional[bool] = ..., json_object: _Optional[bool] = ..., logprobs: _Optional[bool] = ..., reasoning: _Optional[bool] = ..., vision: _Optional[bool] = ..., chat: _Optional[bool] = ..., embeddings: _Optional[bool] = ..., parallel_tool_calls: _Optional[bool] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...
