"""The dialect of Alchemyst's proxies: OpenAI's and Gemini's words, and an upstream server that the path names."""
