"""What a chat completion request may look like.

The shapes are typed dictionaries: validation then copies only what a request has, and the translation (`to_proto`)
walks only that. They are strict (no coercion) and closed (no unknown members). `null` counts as absent everywhere.
Lists fail fast: one wrong item says enough, and a million of them must not cost a million error reports.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

_SHAPE = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
JsonObject: TypeAlias = dict[str, Any]
Int32 = 2**31 - 1
Int64 = 2**63 - 1


class CacheBreakpoint(TypedDict, total=False):
    """Marks the end of a prefix that the provider may cache."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    mode: Required[Literal["explicit"]]
    ttl: Literal["30m", "12h"] | None


class TextPart(TypedDict, total=False):
    """Text."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Required[Literal["text"]]
    text: Required[str]
    prompt_cache_breakpoint: CacheBreakpoint | None


class RefusalPart(TypedDict):
    """A refusal that the model spoke earlier."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["refusal"]
    refusal: str


class ImageUrl(TypedDict, total=False):
    """Where an image is: an http(s) address, or a `data:` URI."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    url: Required[str]
    detail: Literal["auto", "low", "high", "original"] | None


class ImagePart(TypedDict, total=False):
    """An image."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Required[Literal["image_url"]]
    image_url: Required[ImageUrl]
    prompt_cache_breakpoint: CacheBreakpoint | None


class InputAudio(TypedDict):
    """A recording, in base64."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    data: str
    format: Literal["wav", "mp3"]


class AudioPart(TypedDict, total=False):
    """Recorded sound."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Required[Literal["input_audio"]]
    input_audio: Required[InputAudio]
    prompt_cache_breakpoint: CacheBreakpoint | None


class File(TypedDict, total=False):
    """A document: in base64 or as a `data:` URI, or by the id of an uploaded file."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    file_data: str | None
    file_id: str | None
    filename: str | None


class FilePart(TypedDict, total=False):
    """A document."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Required[Literal["file"]]
    file: Required[File]
    prompt_cache_breakpoint: CacheBreakpoint | None


UserPart: TypeAlias = Annotated[TextPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")]
AssistantPart: TypeAlias = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class SystemMessage(TypedDict, total=False):
    """Standing instructions."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: Required[Literal["system"]]
    content: Required[str | Annotated[list[TextPart], Field(fail_fast=True)]]
    name: str | None


class DeveloperMessage(TypedDict, total=False):
    """Instructions of the application's developer."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: Required[Literal["developer"]]
    content: Required[str | Annotated[list[TextPart], Field(fail_fast=True)]]
    name: str | None


class UserMessage(TypedDict, total=False):
    """What the person or program that asks says."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: Required[Literal["user"]]
    content: Required[str | Annotated[list[UserPart], Field(min_length=1, fail_fast=True)]]
    name: str | None


class FunctionCall(TypedDict):
    """A call of a function."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: str
    arguments: str


class CustomCall(TypedDict):
    """A call of a custom tool."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: str
    input: str


class GoogleContent(TypedDict):
    """The provider's proof of the thoughts behind a call, in base64."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    thought_signature: str


class ExtraContent(TypedDict):
    """Extension: what OpenAI's dialect has no member for. This one is Google's, whoever the provider is."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    google: GoogleContent


class FunctionToolCall(TypedDict, total=False):
    """A call of a function tool."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: Required[str]
    type: Required[Literal["function"]]
    function: Required[FunctionCall]
    extra_content: ExtraContent | None


class CustomToolCall(TypedDict, total=False):
    """A call of a custom tool."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: Required[str]
    type: Required[Literal["custom"]]
    custom: Required[CustomCall]
    extra_content: ExtraContent | None


ToolCall: TypeAlias = Annotated[FunctionToolCall | CustomToolCall, Field(discriminator="type")]


class EarlierAudio(TypedDict, total=False):
    """Sound of an earlier answer, by its id. What else the answer said about it may stay."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: Required[str]
    data: str | None
    expires_at: int | None
    transcript: str | None


class AssistantMessage(TypedDict, total=False):
    """What the model said earlier. An answer's message may be sent back as it is."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: Required[Literal["assistant"]]
    content: str | Annotated[list[AssistantPart], Field(fail_fast=True)] | None
    name: str | None
    refusal: str | None
    audio: EarlierAudio | None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, fail_fast=True)] | None
    function_call: FunctionCall | None
    annotations: Annotated[
        Annotated[list[JsonObject], Field(fail_fast=True)] | None,
        Field(description="As an earlier answer had them; models are not shown them."),
    ]
    reasoning_content: Annotated[str | None, Field(description="Extension: what the model thought before it answered.")]


class ToolMessage(TypedDict):
    """The answer of a tool."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: Literal["tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    tool_call_id: str


class FunctionMessage(TypedDict):
    """Deprecated. The answer of a function."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    role: Literal["function"]
    content: str | None
    name: str


Message: TypeAlias = Annotated[
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class Function(TypedDict, total=False):
    """A function that the model may call."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: Required[Name]
    description: str | None
    parameters: JsonObject | None
    strict: bool | None


class FunctionTool(TypedDict):
    """A function that the model may call."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["function"]
    function: Function


class GrammarDefinition(TypedDict):
    """A grammar."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    syntax: Literal["lark", "regex"]
    definition: str


class TextInput(TypedDict):
    """Free text."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["text"]


class GrammarInput(TypedDict):
    """Text that follows a grammar."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["grammar"]
    grammar: GrammarDefinition


class Custom(TypedDict, total=False):
    """A tool with free-text input."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: Required[Name]
    description: str | None
    format: Annotated[TextInput | GrammarInput, Field(discriminator="type")] | None


class CustomTool(TypedDict):
    """A tool with free-text input."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["custom"]
    custom: Custom


Tool: TypeAlias = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class Named(TypedDict):
    """A name."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: str


class NamedFunction(TypedDict):
    """The function that must be called."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["function"]
    function: Named


class NamedCustom(TypedDict):
    """The custom tool that must be called."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["custom"]
    custom: Named


class AllowedTools(TypedDict):
    """Some of the tools, and how to choose among them."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    mode: Literal["auto", "required"]
    tools: Annotated[list[Annotated[NamedFunction | NamedCustom, Field(discriminator="type")]], Field(min_length=1)]


class AllowedToolsChoice(TypedDict):
    """Only some of the tools may be called."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceObject: TypeAlias = Annotated[NamedFunction | NamedCustom | AllowedToolsChoice, Field(discriminator="type")]


class TextFormat(TypedDict):
    """Any text."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["text"]


class JsonObjectFormat(TypedDict):
    """Any JSON object."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["json_object"]


class JsonSchema(TypedDict, total=False):
    """A JSON Schema with a name."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    name: Required[Name]
    description: str | None
    schema: JsonObject | None
    strict: bool | None


class JsonSchemaFormat(TypedDict):
    """JSON that follows a schema."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class VoiceId(TypedDict):
    """A voice of one's own."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    id: str


class AudioOutput(TypedDict):
    """How a spoken answer sounds."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    voice: str | VoiceId
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]


class Prediction(TypedDict):
    """Text that is expected to recur in the answer."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    type: Literal["content"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]


class StreamOptions(TypedDict, total=False):
    """How to stream."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    include_usage: bool | None
    include_obfuscation: Annotated[bool | None, Field(description="Accepted; streams are never padded.")]


Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Tokens = Annotated[int, Field(ge=1, le=Int32)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1)]


class ChatCompletionRequest(TypedDict, total=False):
    """A chat completion request: OpenAI's parameters, and the extensions that are marked as such."""

    __pydantic_config__ = _SHAPE  # type: ignore[misc]
    messages: Required[Annotated[list[Message], Field(min_length=1, fail_fast=True)]]
    model: Annotated[str | None, Field(description="Id or alias of a model; absent means the server's default.")]
    stream: bool | None
    stream_options: StreamOptions | None
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    top_p: Annotated[float, Field(ge=0, le=1)] | None
    frequency_penalty: Penalty | None
    presence_penalty: Penalty | None
    max_completion_tokens: Tokens | None
    max_tokens: Annotated[Tokens | None, Field(deprecated=True)]
    n: Annotated[int, Field(ge=1, le=128)] | None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None
    seed: Annotated[int, Field(ge=-Int64 - 1, le=Int64)] | None
    logprobs: bool | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=4096)] | None
    response_format: ResponseFormat | None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceObject | None
    parallel_tool_calls: bool | None
    functions: Annotated[
        Annotated[list[Function], Field(min_length=1, max_length=128, fail_fast=True)] | None, Field(deprecated=True)
    ]
    function_call: Annotated[Literal["none", "auto"] | Named | None, Field(deprecated=True)]
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    verbosity: Literal["low", "medium", "high"] | None
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, fail_fast=True)] | None
    audio: AudioOutput | None
    prediction: Prediction | None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None
    user: str | None
    safety_identifier: Annotated[str, Field(max_length=128)] | None
    prompt_cache_key: str | None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None
    prompt_cache_options: JsonObject | None
    metadata: Metadata | None
    store: bool | None
    moderation: JsonObject | None
    web_search_options: JsonObject | None
    top_k: Annotated[
        Annotated[int, Field(ge=-1, le=Int32)] | None,
        Field(description="Extension: number of tokens considered; 0 or -1 means all."),
    ]
    min_p: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        Field(description="Extension: least probability of a token, relative to the likeliest."),
    ]
    repetition_penalty: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(description="Extension: multiplicative penalty on repeated tokens; 1 means none."),
    ]
    task_profile: Annotated[
        Literal["general", "coding", "reasoning"] | None,
        Field(description="Extension: what the answer is for; picks the model's sampling values where they are open."),
    ]
    chat_template_kwargs: Annotated[
        JsonObject | None, Field(description="Extension: variables of the model's chat template.")
    ]
    token_type: Annotated[
        Annotated[str, Field(max_length=64)] | None,
        Field(
            description="Extension: the currency that pays for the answer, or `auto`, where credits are on; "
            "wins over the header `X-Token-Type`."
        ),
    ]


REQUEST = TypeAdapter(ChatCompletionRequest)
