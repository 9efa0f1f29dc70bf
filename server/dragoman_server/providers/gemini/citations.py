"""From the API's grounding and citation metadata to the contract's citations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1.message_pb2 import Citation
from dragoman_server.providers.json_values import string

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCES = ("web", "retrievedContext", "maps", "image")


def grounding_citations(metadata: dict[str, Any], text: str) -> list[Citation]:
    """Returns where the answer has it from: a citation for each passage and source, then sources without a passage.

    Args:
        metadata: The API's `groundingMetadata`.
        text: The text of the answer.
    """
    sources = [_source(chunk) for chunk in _objects(metadata.get("groundingChunks"))]
    cited: list[Citation] = []
    used: set[int] = set()
    for support in _objects(metadata.get("groundingSupports")):
        segment = support.get("segment")
        start, end = _range(segment, text) if isinstance(segment, dict) else (0, 0)
        for index in _list(support.get("groundingChunkIndices")):
            if isinstance(index, int) and 0 <= index < len(sources):
                used.add(index)
                citation = Citation(start_index=start, end_index=end)
                citation.MergeFrom(sources[index])
                cited.append(citation)
    return cited + [source for index, source in enumerate(sources) if index not in used]


def recited(metadata: dict[str, Any], text: str) -> list[Citation]:
    """Returns the sources that the answer repeats.

    Args:
        metadata: The API's `citationMetadata`.
        text: The text of the answer.
    """
    found = []
    for source in _objects(metadata.get("citationSources") or metadata.get("citations")):
        start, end = _range(source, text)
        found.append(
            Citation(url=string(source.get("uri")), title=string(source.get("title")), start_index=start, end_index=end)
        )
    return found


def _source(chunk: dict[str, Any]) -> Citation:
    source: dict[str, Any] = next((chunk[kind] for kind in _SOURCES if isinstance(chunk.get(kind), dict)), {})
    passage = source.get("text") if "retrievedContext" in chunk else ""
    return Citation(
        url=string(source.get("uri") or source.get("sourceUri")),
        title=string(source.get("title")),
        cited_text=string(passage),
    )


def _range(segment: dict[str, Any], text: str) -> tuple[int, int]:
    """Returns the characters of a segment, which the API counts in bytes of UTF-8; (0, 0) if it makes no sense."""
    start, end = segment.get("startIndex", 0), segment.get("endIndex", 0)
    if isinstance(start, int) and isinstance(end, int) and 0 <= start < end:
        encoded = text.encode("utf-8", "surrogatepass")
        if end <= len(encoded):
            first = len(encoded[:start].decode("utf-8", "ignore"))
            last = len(encoded[:end].decode("utf-8", "ignore"))
            passage = string(segment.get("text"))
            if not passage or text[first:last] == passage:
                return first, last
    # The bytes are counted within one part of the answer; its text finds the passage all the same.
    passage = string(segment.get("text"))
    at = text.find(passage) if passage else -1
    return (at, at + len(passage)) if at >= 0 else (0, 0)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (entry for entry in _list(value) if isinstance(entry, dict))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
