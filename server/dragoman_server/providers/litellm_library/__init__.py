"""The provider that calls vendors through the LiteLLM library, in this process; for the long tail of vendors."""
