"""Regenerates the built-in facts about vendors' models: `server/dragoman_server/providers/models.json`.

The figures (context, limits, prices, abilities) are taken from the table that the LiteLLM distribution carries, which
is kept up to date from the vendors' own pages. To refresh them: `python scripts/gen_catalogue.py [--table FILE]`.
Without `--table` the distribution is fetched with pip, into a temporary folder.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent.parent / "server/dragoman_server/providers/models.json"
TABLE = "litellm/model_prices_and_context_window_backup.json"

VENDORS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "deepseek": "deepseek",
    "mistral": "mistral",
    "groq": "groq",
    "together_ai": "together",
    "xai": "xai",
    "cerebras": "cerebras",
    "cohere_chat": "cohere",
    "moonshot": "moonshot",
    "sambanova": "sambanova",
    "zai": "zai",
}
"""Names in the table, and ours (see `providers/vendors.toml`)."""

CAPABILITIES = {
    "supports_function_calling": "tools",
    "supports_parallel_function_calling": "parallel_tool_calls",
    "supports_response_schema": "json_schema",
    "supports_reasoning": "reasoning",
    "supports_vision": "vision",
}
NO_JSON_MODE = ("anthropic",)
"""Vendors whose models write JSON by a schema only."""
NO_LOGPROBS = ("anthropic", "cohere_chat", "groq", "mistral")
"""Vendors whose models tell no log probabilities; of the others, the table does not say whether they do."""
MODALITIES = ("text", "audio", "image", "video")
NO_SAMPLING = ["sampling.temperature", "sampling.top_p", "sampling.top_k"]
"""Fields that models without sampling parameters refuse."""


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="the table, if it is there already")
    table = parser.parse_args().table
    rows = json.loads(table.read_text() if table else fetch())
    models: dict[str, dict[str, Any]] = {vendor: {} for vendor in VENDORS.values()}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for name, row in rows.items():
        vendor = VENDORS.get(row.get("litellm_provider"))
        if vendor is None or row.get("mode") not in ("chat", "embedding") or name.startswith("ft:"):
            continue
        if row.get("deprecation_date", "9999") < today or not row.get("max_tokens", row.get("max_input_tokens")):
            continue  # it is gone, or no model at all
        models[vendor][name.removeprefix(f"{row['litellm_provider'].removesuffix('_chat')}/")] = facts(row)
    TARGET.write_text(render(models))
    print(f"{sum(map(len, models.values()))} models written")


def fetch() -> str:
    """Returns the table of the newest distribution."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "litellm"]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return zipfile.ZipFile(wheel).read(TABLE).decode()


def facts(row: dict[str, Any]) -> dict[str, Any]:
    """Returns what we keep of a row; what is unknown is left out."""
    reads = [kind for kind in row.get("supported_modalities", ()) if kind in MODALITIES] or ["text"]
    if row.get("supports_vision") and "image" not in reads:
        reads.append("image")
    if row.get("supports_audio_input") and "audio" not in reads:
        reads.append("audio")
    if row.get("supports_pdf_input"):
        reads.append("file")
    abilities = ["embeddings"] if row["mode"] == "embedding" else ["chat"]
    if row["mode"] == "chat" and row["litellm_provider"] not in NO_JSON_MODE:
        abilities.append("json_object")
    if row["mode"] == "chat" and row["litellm_provider"] not in NO_LOGPROBS:
        abilities.append("logprobs")
    abilities += [ours for theirs, ours in CAPABILITIES.items() if row.get(theirs)]
    found: dict[str, Any] = {
        "context_length": integer(row.get("max_input_tokens") or row.get("max_tokens")),
        "max_output_tokens": integer(row.get("max_output_tokens")) if row["mode"] == "chat" else 0,
        "input": reads,
        "output": writes(row),
        "capabilities": abilities,
        "prices": {
            "input_micros": micros(row.get("input_cost_per_token")),
            "output_micros": micros(row.get("output_cost_per_token")),
            "cached_input_micros": micros(row.get("cache_read_input_token_cost")),
        },
        "unsupported": NO_SAMPLING if row.get("supports_sampling_params") is False else [],
    }
    if not found["prices"]["input_micros"]:
        del found["prices"]
    return {key: value for key, value in found.items() if value}


def writes(row: dict[str, Any]) -> list[str]:
    """Returns what a model produces; the table tells it in either of two ways."""
    told = [kind for kind in row.get("supported_output_modalities", ()) if kind in MODALITIES] or ["text"]
    return [*told, "audio"] if row.get("supports_audio_output") and "audio" not in told else told


def integer(value: Any) -> int:
    """Returns a count of the table, which has some as text."""
    return int(float(value)) if value else 0


def micros(dollars_per_token: float | None) -> int:
    """Returns millionths of a dollar for a million tokens."""
    return round((dollars_per_token or 0) * 1e12)


def render(models: dict[str, dict[str, Any]]) -> str:
    """Returns the file's text: a line for each model, so that changes can be read."""
    blocks = []
    for vendor, by_id in sorted(models.items()):
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(by_id.items()))
        blocks.append(f"  {json.dumps(vendor)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


if __name__ == "__main__":
    main()
