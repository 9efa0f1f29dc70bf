"""What requests and answers look like: tables of messages, as Google's own API has them.

Google reads JSON by the rules of protobuf: names in camel or snake case, `null` for absent, one value in place of a
list of one. `request` applies these rules; the documentation is made from the same tables.

A field that Google knows and this server cannot honour is in the table with the reason: it is refused by name.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, NamedTuple


class Kind(Enum):
    """The kinds of values that are no messages, by the name that errors show."""

    STRING = "TYPE_STRING"
    BOOL = "TYPE_BOOL"
    INT32 = "TYPE_INT32"
    INT64 = "TYPE_INT64"
    DOUBLE = "TYPE_DOUBLE"
    BYTES = "TYPE_BYTES"
    STRUCT = "type.googleapis.com/google.protobuf.Struct"
    VALUE = "type.googleapis.com/google.protobuf.Value"


class Words(NamedTuple):
    """The values of an enum; letters of either case are taken."""

    values: tuple[str, ...]


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        kind: What its values are; a text names a message.
        repeated: Whether it is a list.
        keyed: Whether it is an object of values under names of the client's own.
        other_name: A second name that it goes by.
        refused: Why this server does not take it; empty if it does.
    """

    kind: Kind | Words | str
    repeated: bool = False
    keyed: bool = False
    other_name: str = ""
    refused: str = ""


def one(kind: Kind | Words | str) -> Field:
    """Returns a field with one value."""
    return Field(kind)


def many(kind: Kind | Words | str) -> Field:
    """Returns a field with a list of values."""
    return Field(kind, repeated=True)


def refused(why: str) -> Field:
    """Returns a field that this server does not take."""
    return Field(Kind.VALUE, refused=why)


STRING, BOOL, INT32, INT64, DOUBLE = (
    one(kind) for kind in (Kind.STRING, Kind.BOOL, Kind.INT32, Kind.INT64, Kind.DOUBLE)
)
BYTES, STRUCT, VALUE, STRINGS = one(Kind.BYTES), one(Kind.STRUCT), one(Kind.VALUE), many(Kind.STRING)

TYPES = Words(("TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"))
CATEGORIES = Words(
    (
        "HARM_CATEGORY_UNSPECIFIED",
        "HARM_CATEGORY_HARASSMENT",
        "HARM_CATEGORY_HATE_SPEECH",
        "HARM_CATEGORY_SEXUALLY_EXPLICIT",
        "HARM_CATEGORY_DANGEROUS_CONTENT",
        "HARM_CATEGORY_CIVIC_INTEGRITY",
        "HARM_CATEGORY_JAILBREAK",
    )
)
THRESHOLDS = Words(
    (
        "HARM_BLOCK_THRESHOLD_UNSPECIFIED",
        "BLOCK_LOW_AND_ABOVE",
        "BLOCK_MEDIUM_AND_ABOVE",
        "BLOCK_HIGH_AND_ABOVE",
        "BLOCK_ONLY_HIGH",
        "BLOCK_NONE",
        "OFF",
    )
)
RESOLUTIONS = Words(("MEDIA_RESOLUTION_UNSPECIFIED", "MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_HIGH"))
PART_RESOLUTIONS = Words((*RESOLUTIONS.values, "MEDIA_RESOLUTION_ULTRA_HIGH"))
LEVELS = Words(("THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH"))
MODES = Words(("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"))
MODALITIES = Words(("TEXT", "IMAGE", "AUDIO"))
TASKS = Words(
    (
        "TASK_TYPE_UNSPECIFIED",
        "RETRIEVAL_QUERY",
        "RETRIEVAL_DOCUMENT",
        "SEMANTIC_SIMILARITY",
        "CLASSIFICATION",
        "CLUSTERING",
        "QUESTION_ANSWERING",
        "FACT_VERIFICATION",
        "CODE_RETRIEVAL_QUERY",
    )
)
TIERS = Words(("UNSPECIFIED", "SERVICE_TIER_UNSPECIFIED", "STANDARD", "FLEX", "PRIORITY"))
FINISH_REASONS = Words(("STOP", "MAX_TOKENS", "SAFETY", "MALFORMED_FUNCTION_CALL"))

_NO_SEARCH = "this server offers no search of its own"
_NO_CODE = "this server runs no code for models"
_NO_FILES = "this server keeps no files or caches at Google"
_NO_META = "models are not shown it"
_VIDEO = "videos are passed on as they are"

_REQUEST: dict[str, dict[str, Field]] = {
    "GenerateContentRequest": {
        "contents": many("Content"),
        "systemInstruction": one("Content"),
        "tools": many("Tool"),
        "toolConfig": one("ToolConfig"),
        "generationConfig": one("GenerationConfig"),
        "safetySettings": many("SafetySetting"),
        "labels": Field(Kind.STRING, keyed=True),
        "serviceTier": one(TIERS),
        "store": BOOL,
        "model": STRING,
        "cachedContent": refused(_NO_FILES),
        "continuationToken": refused("answers are never cut into pieces that must be asked for"),
        "modelArmorConfig": refused("it is a service of Google's"),
    },
    "EmbedContentRequest": {
        "model": STRING,
        "content": one("Content"),
        "taskType": one(TASKS),
        "outputDimensionality": INT32,
        "title": refused("vectors are made of texts alone"),
    },
    "BatchEmbedContentsRequest": {"requests": many("EmbedContentRequest")},
    "Content": {"role": STRING, "parts": many("Part")},
    "Part": {
        "text": STRING,
        "inlineData": one("Blob"),
        "fileData": one("FileData"),
        "functionCall": one("FunctionCall"),
        "functionResponse": one("FunctionResponse"),
        "thought": BOOL,
        "thoughtSignature": BYTES,
        "mediaResolution": one("PartMediaResolution"),
        "executableCode": refused(_NO_CODE),
        "codeExecutionResult": refused(_NO_CODE),
        "toolCall": refused("calls of Google's own tools cannot be continued here"),
        "toolResponse": refused("calls of Google's own tools cannot be continued here"),
        "videoMetadata": refused(_VIDEO),
        "mediaProcessing": refused(_VIDEO),
        "partMetadata": refused(_NO_META),
        "speechMetadata": refused(_NO_META),
        "documentMetadata": refused(_NO_META),
        "spreadsheetMetadata": refused(_NO_META),
        "audioMetadata": refused(_NO_META),
        "audioTranscription": refused(_NO_META),
    },
    "Blob": {"mimeType": STRING, "data": BYTES, "displayName": STRING},
    "FileData": {"mimeType": STRING, "fileUri": STRING, "displayName": STRING},
    "PartMediaResolution": {"level": one(PART_RESOLUTIONS), "numTokens": refused("name a level")},
    "FunctionCall": {
        "id": STRING,
        "name": STRING,
        "args": STRUCT,
        "partialArgs": refused("calls are sent whole"),
        "willContinue": refused("calls are sent whole"),
    },
    "FunctionResponse": {
        "id": STRING,
        "name": STRING,
        "response": STRUCT,
        "parts": many("FunctionResponsePart"),
        "willContinue": refused("results are taken whole"),
        "scheduling": refused("results are taken when they come"),
    },
    "FunctionResponsePart": {"inlineData": one("Blob"), "fileData": one("FileData")},
    "Tool": {
        "functionDeclarations": many("FunctionDeclaration"),
        "googleSearch": refused(_NO_SEARCH),
        "googleSearchRetrieval": refused(_NO_SEARCH),
        "enterpriseWebSearch": refused(_NO_SEARCH),
        "parallelAiSearch": refused(_NO_SEARCH),
        "exaAiSearch": refused(_NO_SEARCH),
        "googleMaps": refused(_NO_SEARCH),
        "retrieval": refused(_NO_SEARCH),
        "fileSearch": refused(_NO_FILES),
        "urlContext": refused("this server fetches no pages for models"),
        "codeExecution": refused(_NO_CODE),
        "computerUse": refused(_NO_CODE),
        "mcpServers": refused("this server calls no tools that a request names"),
    },
    "FunctionDeclaration": {
        "name": STRING,
        "description": STRING,
        "parameters": one("Schema"),
        "parametersJsonSchema": VALUE,
        "behavior": one(Words(("UNSPECIFIED", "BLOCKING"))),
        "response": refused("describe the result in the description"),
        "responseJsonSchema": refused("describe the result in the description"),
    },
    "ToolConfig": {
        "functionCallingConfig": one("FunctionCallingConfig"),
        "retrievalConfig": refused(_NO_SEARCH),
        "includeServerSideToolInvocations": refused("this server runs no tools of Google's"),
    },
    "FunctionCallingConfig": {
        "mode": one(MODES),
        "allowedFunctionNames": STRINGS,
        "streamFunctionCallArguments": refused("calls are sent whole"),
    },
    "SafetySetting": {
        "category": one(CATEGORIES),
        "threshold": one(THRESHOLDS),
        "method": refused("thresholds are compared by the provider's own method"),
    },
    "GenerationConfig": {
        "temperature": DOUBLE,
        "topP": DOUBLE,
        "topK": INT32,
        "candidateCount": INT32,
        "maxOutputTokens": INT32,
        "stopSequences": STRINGS,
        "seed": INT64,
        "presencePenalty": DOUBLE,
        "frequencyPenalty": DOUBLE,
        "responseLogprobs": BOOL,
        "logprobs": INT32,
        "responseMimeType": STRING,
        "responseSchema": one("Schema"),
        "responseJsonSchema": Field(Kind.VALUE, other_name="_responseJsonSchema"),
        "responseFormat": many("ResponseFormat"),
        "responseModalities": many(MODALITIES),
        "thinkingConfig": one("ThinkingConfig"),
        "speechConfig": one("SpeechConfig"),
        "mediaResolution": one(RESOLUTIONS),
        "responseJsonSchemaOrdered": refused("use responseJsonSchema, which keeps the order"),
        "imageConfig": refused("answers hold no images"),
        "audioTimestamp": refused("sound is passed on as it is"),
        "audioTranscriptionConfig": refused("sound is passed on as it is"),
        "enableEnhancedCivicAnswers": refused("it is a service of Google's"),
        "enableAffectiveDialog": refused("it is a service of Google's"),
        "routingConfig": refused("the server's own configuration says who answers"),
        "modelSelectionConfig": refused("the server's own configuration says who answers"),
        "modelConfig": refused("the server's own configuration says who answers"),
    },
    "ResponseFormat": {
        "text": one("TextResponseFormat"),
        "audio": refused("use responseModalities and speechConfig"),
        "image": refused("answers hold no images"),
        "video": refused("answers hold no videos"),
    },
    "TextResponseFormat": {"mimeType": STRING, "schema": VALUE},
    "ThinkingConfig": {"includeThoughts": BOOL, "thinkingBudget": INT32, "thinkingLevel": one(LEVELS)},
    "SpeechConfig": {
        "voiceConfig": one("VoiceConfig"),
        "multiSpeakerVoiceConfig": refused("answers have one voice"),
        "languageCode": refused("the voice decides"),
    },
    "VoiceConfig": {
        "prebuiltVoiceConfig": one("PrebuiltVoiceConfig"),
        "replicatedVoiceConfig": refused("use a prebuilt voice"),
    },
    "PrebuiltVoiceConfig": {"voiceName": STRING},
    "Schema": {
        "type": one(TYPES),
        "format": STRING,
        "title": STRING,
        "description": STRING,
        "nullable": BOOL,
        "enum": STRINGS,
        "properties": Field("Schema", keyed=True),
        "required": STRINGS,
        "propertyOrdering": STRINGS,
        "items": one("Schema"),
        "prefixItems": many("Schema"),
        "anyOf": many("Schema"),
        "minItems": INT64,
        "maxItems": INT64,
        "minProperties": INT64,
        "maxProperties": INT64,
        "minLength": INT64,
        "maxLength": INT64,
        "minimum": DOUBLE,
        "maximum": DOUBLE,
        "pattern": STRING,
        "default": VALUE,
        "example": VALUE,
        "additionalProperties": VALUE,
        "ref": Field(Kind.STRING, other_name="$ref"),
        "defs": Field("Schema", keyed=True, other_name="$defs"),
    },
}

_ANSWER: dict[str, dict[str, Field]] = {
    "GenerateContentResponse": {
        "candidates": many("Candidate"),
        "promptFeedback": one("PromptFeedback"),
        "usageMetadata": one("UsageMetadata"),
        "modelVersion": STRING,
        "responseId": STRING,
    },
    "Candidate": {
        "content": one("Content"),
        "finishReason": one(FINISH_REASONS),
        "finishMessage": STRING,
        "index": INT32,
        "citationMetadata": one("CitationMetadata"),
        "logprobsResult": one("LogprobsResult"),
        "avgLogprobs": DOUBLE,
    },
    "PromptFeedback": {"blockReason": one(Words(("SAFETY",)))},
    "CitationMetadata": {"citationSources": many("CitationSource")},
    "CitationSource": {"startIndex": INT32, "endIndex": INT32, "uri": STRING},
    "LogprobsResult": {"topCandidates": many("TopCandidates"), "chosenCandidates": many("LogprobsCandidate")},
    "TopCandidates": {"candidates": many("LogprobsCandidate")},
    "LogprobsCandidate": {"token": STRING, "logProbability": DOUBLE},
    "UsageMetadata": {
        "promptTokenCount": INT64,
        "candidatesTokenCount": INT64,
        "thoughtsTokenCount": INT64,
        "cachedContentTokenCount": INT64,
        "totalTokenCount": INT64,
        "promptTokensDetails": many("ModalityTokenCount"),
        "candidatesTokensDetails": many("ModalityTokenCount"),
    },
    "ModalityTokenCount": {"modality": one(Words(("TEXT", "IMAGE", "AUDIO"))), "tokenCount": INT64},
    "Model": {
        "name": STRING,
        "version": STRING,
        "displayName": STRING,
        "inputTokenLimit": INT32,
        "outputTokenLimit": INT32,
        "supportedGenerationMethods": STRINGS,
        "thinking": BOOL,
        "temperature": DOUBLE,
        "maxTemperature": DOUBLE,
        "topP": DOUBLE,
        "topK": INT32,
    },
    "ListModelsResponse": {"models": many("Model"), "nextPageToken": STRING},
    "ErrorResponse": {"error": one("Status")},
    "Status": {"code": INT32, "message": STRING, "status": STRING, "details": many(Kind.STRUCT)},
}

_EMBEDDINGS: dict[str, dict[str, Field]] = {
    "EmbedContentResponse": {"embedding": one("ContentEmbedding"), "usageMetadata": one("EmbeddingUsageMetadata")},
    "BatchEmbedContentsResponse": {
        "embeddings": many("ContentEmbedding"),
        "usageMetadata": one("EmbeddingUsageMetadata"),
    },
    "ContentEmbedding": {"values": many(Kind.DOUBLE)},
    "EmbeddingUsageMetadata": {"promptTokenCount": INT32},
}

MESSAGES = _REQUEST | _ANSWER | _EMBEDDINGS


def snake(name: str) -> str:
    """Returns a name in snake case: how protobuf calls the field, and how errors name it."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _names(fields: dict[str, Field]) -> dict[str, tuple[str, str, Field]]:
    """Returns the names that a message's fields go by, each with the names in camel and snake case and the field."""
    names: dict[str, tuple[str, str, Field]] = {}
    for name, field in fields.items():
        row = (name, snake(name), field)
        for spelling in filter(None, (name, snake(name), field.other_name, snake(field.other_name))):
            names[spelling] = row
    return names


NAMES = {message: _names(fields) for message, fields in MESSAGES.items()}
"""By message and name of a field in either case: the names in camel and in snake case, and the field."""

_JSON_TYPES: dict[Kind, dict[str, Any]] = {
    Kind.STRING: {"type": "string"},
    Kind.BOOL: {"type": "boolean"},
    Kind.INT32: {"type": "integer"},
    Kind.INT64: {"type": "integer", "format": "int64"},
    Kind.DOUBLE: {"type": "number"},
    Kind.BYTES: {"type": "string", "contentEncoding": "base64"},
    Kind.STRUCT: {"type": "object"},
    Kind.VALUE: {},
}


def json_schemas(reference: str) -> dict[str, Any]:
    """Returns the JSON Schemas of all messages by name, without what is refused.

    Args:
        reference: The address of a schema, with `{model}` for its name.
    """
    return {
        message: {
            "type": "object",
            "properties": {name: _json_schema(field, reference) for name, field in fields.items() if not field.refused},
        }
        for message, fields in MESSAGES.items()
    }


def _json_schema(field: Field, reference: str) -> dict[str, Any]:
    value: dict[str, Any]
    match field.kind:
        case Kind():
            value = dict(_JSON_TYPES[field.kind])
        case Words(values=values):
            value = {"type": "string", "enum": list(values)}
        case message:
            value = {"$ref": reference.format(model=message)}
    if field.repeated:
        return {"type": "array", "items": value}
    return {"type": "object", "additionalProperties": value} if field.keyed else value
