"""The wire dialect of OpenAI's chat completions, spoken towards any server that answers it."""
