"""The embedded model: llama.cpp in this process.

`request` turns a chat into llama.cpp's wire form, `json_schema` prepares a schema for its grammars, `chunks` turns its
answer into events, `generation` carries them from a worker thread to the event loop, `loading` loads the model, and
`provider` owns it. `embeddings` is a second instance, which makes vectors.
"""

from dragoman_server.providers.llamacpp.embeddings import LlamaCppEmbedder
from dragoman_server.providers.llamacpp.provider import LlamaCppProvider

__all__ = ["LlamaCppEmbedder", "LlamaCppProvider"]
