"""The HTTP edge: vLLM's OpenAI application over StreamScheduler, and our own routes."""
