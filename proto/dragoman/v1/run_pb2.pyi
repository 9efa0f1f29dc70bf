import datetime

from dragoman.v1 import event_pb2 as _event_pb2
from dragoman.v1 import failure_pb2 as _failure_pb2
from dragoman.v1 import message_pb2 as _message_pb2
from dragoman.v1 import sampling_pb2 as _sampling_pb2
from dragoman.v1 import tool_pb2 as _tool_pb2
from dragoman.v1 import usage_pb2 as _usage_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DisconnectPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISCONNECT_POLICY_UNSPECIFIED: _ClassVar[DisconnectPolicy]
    DISCONNECT_POLICY_CANCEL: _ClassVar[DisconnectPolicy]
    DISCONNECT_POLICY_DETACH: _ClassVar[DisconnectPolicy]
    DISCONNECT_POLICY_DETACH_FOR: _ClassVar[DisconnectPolicy]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_EPHEMERAL: _ClassVar[Durability]
    DURABILITY_DURABLE: _ClassVar[Durability]

class HistoryMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HISTORY_MODE_UNSPECIFIED: _ClassVar[HistoryMode]
    HISTORY_MODE_STORED: _ClassVar[HistoryMode]
    HISTORY_MODE_GIVEN: _ClassVar[HistoryMode]

class TaskProfile(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_PROFILE_UNSPECIFIED: _ClassVar[TaskProfile]
    TASK_PROFILE_GENERAL: _ClassVar[TaskProfile]
    TASK_PROFILE_CODING: _ClassVar[TaskProfile]
    TASK_PROFILE_REASONING: _ClassVar[TaskProfile]
DISCONNECT_POLICY_UNSPECIFIED: DisconnectPolicy
DISCONNECT_POLICY_CANCEL: DisconnectPolicy
DISCONNECT_POLICY_DETACH: DisconnectPolicy
DISCONNECT_POLICY_DETACH_FOR: DisconnectPolicy
DURABILITY_UNSPECIFIED: Durability
DURABILITY_EPHEMERAL: Durability
DURABILITY_DURABLE: Durability
HISTORY_MODE_UNSPECIFIED: HistoryMode
HISTORY_MODE_STORED: HistoryMode
HISTORY_MODE_GIVEN: HistoryMode
TASK_PROFILE_UNSPECIFIED: TaskProfile
TASK_PROFILE_GENERAL: TaskProfile
TASK_PROFILE_CODING: TaskProfile
TASK_PROFILE_REASONING: TaskProfile

class RunSpec(_message.Message):
    __slots__ = ("chat", "disconnect_policy", "detach_ttl", "durability", "labels", "timeout")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHAT_FIELD_NUMBER: _ClassVar[int]
    DISCONNECT_POLICY_FIELD_NUMBER: _ClassVar[int]
    DETACH_TTL_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    chat: ChatSpec
    disconnect_policy: DisconnectPolicy
    detach_ttl: _duration_pb2.Duration
    durability: Durability
    labels: _containers.ScalarMap[str, str]
    timeout: _duration_pb2.Duration
    def __init__(self, chat: _Optional[_Union[ChatSpec, _Mapping]] = ..., disconnect_policy: _Optional[_Union[DisconnectPolicy, str]] = ..., detach_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., durability: _Optional[_Union[Durability, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ChatSpec(_message.Message):
    __slots__ = ("model", "messages", "sampling", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "verbosity", "modalities", "audio", "prediction", "service_tier", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata", "store", "web_search_options_json", "chat_template_kwargs_json", "moderation_json", "prompt_cache_options_json", "reasoning_budget_tokens", "include_reasoning", "safety_settings", "task_profile", "upstream", "conversation_id", "persona", "context", "token_type", "history_mode", "message_notes")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CHOICE_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    REASONING_EFFORT_FIELD_NUMBER: _ClassVar[int]
    VERBOSITY_FIELD_NUMBER: _ClassVar[int]
    MODALITIES_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TIER_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    SAFETY_IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_CACHE_KEY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_CACHE_RETENTION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    WEB_SEARCH_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_KWARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    MODERATION_JSON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_CACHE_OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    REASONING_BUDGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REASONING_FIELD_NUMBER: _ClassVar[int]
    SAFETY_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    TASK_PROFILE_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    PERSONA_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_MODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_NOTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[_message_pb2.Message]
    sampling: _sampling_pb2.Sampling
    tools: _containers.RepeatedCompositeFieldContainer[_tool_pb2.Tool]
    tool_choice: _tool_pb2.ToolChoice
    parallel_tool_calls: bool
    response_format: _sampling_pb2.ResponseFormat
    reasoning_effort: _sampling_pb2.ReasoningEffort
    verbosity: _sampling_pb2.Verbosity
    modalities: _containers.RepeatedScalarFieldContainer[_sampling_pb2.Modality]
    audio: _sampling_pb2.AudioOutput
    prediction: _sampling_pb2.Prediction
    service_tier: str
    user: str
    safety_identifier: str
    prompt_cache_key: str
    prompt_cache_retention: str
    metadata: _containers.ScalarMap[str, str]
    store: bool
    web_search_options_json: str
    chat_template_kwargs_json: str
    moderation_json: str
    prompt_cache_options_json: str
    reasoning_budget_tokens: int
    include_reasoning: bool
    safety_settings: _containers.RepeatedCompositeFieldContainer[SafetySetting]
    task_profile: TaskProfile
    upstream: Upstream
    conversation_id: str
    persona: str
    context: _containers.RepeatedScalarFieldContainer[str]
    token_type: str
    history_mode: HistoryMode
    message_notes: _containers.RepeatedCompositeFieldContainer[MessageNote]
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[_message_pb2.Message, _Mapping]]] = ..., sampling: _Optional[_Union[_sampling_pb2.Sampling, _Mapping]] = ..., tools: _Optional[_Iterable[_Union[_tool_pb2.Tool, _Mapping]]] = ..., tool_choice: _Optional[_Union[_tool_pb2.ToolChoice, _Mapping]] = ..., parallel_tool_calls: _Optional[bool] = ..., response_format: _Optional[_Union[_sampling_pb2.ResponseFormat, _Mapping]] = ..., reasoning_effort: _Optional[_Union[_sampling_pb2.ReasoningEffort, str]] = ..., verbosity: _Optional[_Union[_sampling_pb2.Verbosity, str]] = ..., modalities: _Optional[_Iterable[_Union[_sampling_pb2.Modality, str]]] = ..., audio: _Optional[_Union[_sampling_pb2.AudioOutput, _Mapping]] = ..., prediction: _Optional[_Union[_sampling_pb2.Prediction, _Mapping]] = ..., service_tier: _Optional[str] = ..., user: _Optional[str] = ..., safety_identifier: _Optional[str] = ..., prompt_cache_key: _Optional[str] = ..., prompt_cache_retention: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., store: _Optional[bool] = ..., web_search_options_json: _Optional[str] = ..., chat_template_kwargs_json: _Optional[str] = ..., moderation_json: _Optional[str] = ..., prompt_cache_options_json: _Optional[str] = ..., reasoning_budget_tokens: _Optional[int] = ..., include_reasoning: _Optional[bool] = ..., safety_settings: _Optional[_Iterable[_Union[SafetySetting, _Mapping]]] = ..., task_profile: _Optional[_Union[TaskProfile, str]] = ..., upstream: _Optional[_Union[Upstream, _Mapping]] = ..., conversation_id: _Optional[str] = ..., persona: _Optional[str] = ..., context: _Optional[_Iterable[str]] = ..., token_type: _Optional[str] = ..., history_mode: _Optional[_Union[HistoryMode, str]] = ..., message_notes: _Optional[_Iterable[_Union[MessageNote, _Mapping]]] = ...) -> None: ...

class MessageNote(_message.Message):
    __slots__ = ("message_index", "client_id", "details_json")
    MESSAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DETAILS_JSON_FIELD_NUMBER: _ClassVar[int]
    message_index: int
    client_id: str
    details_json: str
    def __init__(self, message_index: _Optional[int] = ..., client_id: _Optional[str] = ..., details_json: _Optional[str] = ...) -> None: ...

class SafetySetting(_message.Message):
    __slots__ = ("category", "threshold")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    category: str
    threshold: str
    def __init__(self, category: _Optional[str] = ..., threshold: _Optional[str] = ...) -> None: ...

class Upstream(_message.Message):
    __slots__ = ("base_url", "api_key", "dialect")
    BASE_URL_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    base_url: str
    api_key: str
    dialect: str
    def __init__(self, base_url: _Optional[str] = ..., api_key: _Optional[str] = ..., dialect: _Optional[str] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("id", "state", "model", "provider", "choices", "usage", "failure", "cancel_reason", "create_time", "end_time", "last_sequence", "first_available_sequence", "labels", "upstream_model", "attempts", "dropped_params", "emulated_features", "charge", "conversation_id", "message_ids", "rate_state")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Run.State]
        STATE_RUNNING: _ClassVar[Run.State]
        STATE_COMPLETED: _ClassVar[Run.State]
        STATE_FAILED: _ClassVar[Run.State]
        STATE_CANCELLED: _ClassVar[Run.State]
    STATE_UNSPECIFIED: Run.State
    STATE_RUNNING: Run.State
    STATE_COMPLETED: Run.State
    STATE_FAILED: Run.State
    STATE_CANCELLED: Run.State
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REASON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_AVAILABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_PARAMS_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    CHARGE_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_IDS_FIELD_NUMBER: _ClassVar[int]
    RATE_STATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    state: Run.State
    model: str
    provider: str
    choices: _containers.RepeatedCompositeFieldContainer[Choice]
    usage: _usage_pb2.Usage
    failure: _failure_pb2.Failure
    cancel_reason: _event_pb2.CancelReason
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    last_sequence: int
    first_available_sequence: int
    labels: _containers.ScalarMap[str, str]
    upstream_model: str
    attempts: int
    dropped_params: _containers.RepeatedScalarFieldContainer[str]
    emulated_features: _containers.RepeatedScalarFieldContainer[str]
    charge: _usage_pb2.Charge
    conversation_id: str
    message_ids: _containers.RepeatedScalarFieldContainer[str]
    rate_state: _usage_pb2.RateState
    def __init__(self, id: _Optional[str] = ..., state: _Optional[_Union[Run.State, str]] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ..., choices: _Optional[_Iterable[_Union[Choice, _Mapping]]] = ..., usage: _Optional[_Union[_usage_pb2.Usage, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ..., cancel_reason: _Optional[_Union[_event_pb2.CancelReason, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_sequence: _Optional[int] = ..., first_available_sequence: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., upstream_model: _Optional[str] = ..., attempts: _Optional[int] = ..., dropped_params: _Optional[_Iterable[str]] = ..., emulated_features: _Optional[_Iterable[str]] = ..., charge: _Optional[_Union[_usage_pb2.Charge, _Mapping]] = ..., conversation_id: _Optional[str] = ..., message_ids: _Optional[_Iterable[str]] = ..., rate_state: _Optional[_Union[_usage_pb2.RateState, _Mapping]] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("index", "message", "finish_reason", "logprobs", "refusal_logprobs", "stop_sequence")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    STOP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    index: int
    message: _message_pb2.Message
    finish_reason: _event_pb2.FinishReason
    logprobs: _containers.RepeatedCompositeFieldContainer[_event_pb2.TokenLogprob]
    refusal_logprobs: _containers.RepeatedCompositeFieldContainer[_event_pb2.TokenLogprob]
    stop_sequence: str
    def __init__(self, index: _Optional[int] = ..., message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., finish_reason: _Optional[_Union[_event_pb2.FinishReason, str]] = ..., logprobs: _Optional[_Iterable[_Union[_event_pb2.TokenLogprob, _Mapping]]] = ..., refusal_logprobs: _Optional[_Iterable[_Union[_event_pb2.TokenLogprob, _Mapping]]] = ..., stop_sequence: _Optional[str] = ...) -> None: ...
