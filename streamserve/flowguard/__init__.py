"""FlowGuard: where a request runs."""
