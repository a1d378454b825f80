"""Metrics of StreamServe itself, beside the ones that vLLM keeps."""
