"""The dialect of Alchemyst.

Its proxies take OpenAI's and Gemini's words, and an upstream server that the path names: `paths` and `errors`. Its chat
API has words of its own for stored chats: the other modules.
"""
