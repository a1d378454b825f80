"""The lanes: live ones over vLLM and simulated ones, which know nothing of each other."""
