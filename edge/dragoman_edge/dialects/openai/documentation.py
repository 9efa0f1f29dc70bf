"""The JSON Schemas of the dialect, for the documentation."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from dragoman_edge.dialects.openai.answers import ANSWERS
from dragoman_edge.dialects.openai.embeddings import EMBEDDING_REQUEST
from dragoman_edge.dialects.openai.schemas import REQUEST


def load_schemas(reference: str) -> dict[str, Any]:
    """Returns the schemas of requests and answers by name.

    Args:
        reference: The address of a schema, with `{model}` for its name.
    """
    adapters: list[tuple[str, Any, TypeAdapter[Any]]] = [
        ("request", "validation", REQUEST),
        ("embedding_request", "validation", EMBEDDING_REQUEST),
    ]
    adapters += [(name, "serialization", adapter) for name, adapter in ANSWERS.items()]
    _, document = TypeAdapter.json_schemas(adapters, ref_template=reference)
    schemas: dict[str, Any] = document["$defs"]
    return schemas
