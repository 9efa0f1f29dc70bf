import datetime

from dragoman.v1 import sampling_pb2 as _sampling_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("id", "owner", "provider", "upstream_model", "create_time", "context_length", "max_output_tokens", "input_modalities", "output_modalities", "capabilities", "is_default", "ready")
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
    def __init__(self, id: _Optional[str] = ..., owner: _Optional[str] = ..., provider: _Optional[str] = ..., upstream_model: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., context_length: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., input_modalities: _Optional[_Iterable[_Union[_sampling_pb2.Modality, str]]] = ..., output_modalities: _Optional[_Iterable[_Union[_sampling_pb2.Modality, str]]] = ..., capabilities: _Optional[_Union[ModelCapabilities, _Mapping]] = ..., is_default: _Optional[bool] = ..., ready: _Optional[bool] = ...) -> None: ...

class ModelCapabilities(_message.Message):
    __slots__ = ("tools", "json_schema", "json_object", "logprobs", "reasoning", "vision")
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    JSON_OBJECT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    VISION_FIELD_NUMBER: _ClassVar[int]
    tools: bool
    json_schema: bool
    json_object: bool
    logprobs: bool
    reasoning: bool
    vision: bool
    def __init__(self, tools: _Optional[bool] = ..., json_schema: _Optional[bool] = ..., json_object: _Optional[bool] = ..., logprobs: _Optional[bool] = ..., reasoning: _Optional[bool] = ..., vision: _Optional[bool] = ...) -> None: ...

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
