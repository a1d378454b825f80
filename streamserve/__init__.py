"""StreamServe: LLM serving in which routing and speculation depth are learned."""

__version__ = "0.1.0"
