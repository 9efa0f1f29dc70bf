"""Renders models of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragoman.v1.catalog_service_pb2 import Model
    from dragoman_edge.dialects.gemini.request import Json

_CHAT_METHODS: tuple[str, ...] = ("generateContent", "streamGenerateContent")
_EMBEDDING_METHODS = ("embedContent", "batchEmbedContents")


def model_object(model: Model) -> Json:
    """Returns a model, with what is known of it."""
    can = model.capabilities
    methods = _CHAT_METHODS if can.chat or not can.embeddings else ()
    if can.embeddings:
        methods += _EMBEDDING_METHODS
    made: Json = {
        "name": f"models/{model.id}",
        "version": model.upstream_model,
        "displayName": model.id,
        "supportedGenerationMethods": methods,
    }
    known = {
        "inputTokenLimit": model.context_length,
        "outputTokenLimit": model.max_output_tokens,
        "thinking": can.reasoning,
    }
    made |= {name: value for name, value in known.items() if value}
    defaults = {"temperature": "temperature", "topP": "top_p", "topK": "top_k"}
    made |= {name: model.defaults[of] for name, of in defaults.items() if of in model.defaults}
    if "topK" in made:
        made["topK"] = int(made["topK"])
    if "temperature" in model.limits:
        made["maxTemperature"] = model.limits["temperature"].max
    return made
