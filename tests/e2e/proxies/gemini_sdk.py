"""Asks through the Gemini proxy with the Google Gen AI SDK that this interpreter has, and prints what came as JSON.

Run by test_gemini_sdk.py.
"""

from __future__ import annotations

import json
import sys

from google import genai
from google.genai import errors, types

BASE_URL, KEY, UPSTREAM_KEY = sys.argv[1:4]


def client(key: str) -> genai.Client:
    """Returns a client whose own key is the upstream's; the other one goes in a header."""
    options = types.HttpOptions(base_url=BASE_URL, headers={"Authorization": f"Bearer {key}"}, timeout=60_000)
    return genai.Client(api_key=UPSTREAM_KEY, http_options=options)


def refusal(key: str, contents: str) -> object:
    asking = client(key)  # it closes itself when nobody holds it
    try:
        asking.models.generate_content(model="gemini-x", contents=contents)
    except errors.APIError as error:
        return error.code
    return None


sdk = client(KEY)
hello = "SCRIPT " + json.dumps({"text": ["Hel", "lo"]})
failing = "SCRIPT " + json.dumps({"fail_before": {"message": "no"}})
found = {
    "whole": sdk.models.generate_content(model="gemini-x", contents=hello).text,
    "stream": [piece.text for piece in sdk.models.generate_content_stream(model="gemini-x", contents=hello)],
    "key": refusal("wrong", hello),
    "failure": refusal(KEY, failing),
}
json.dump(found, sys.stdout)
