"""Live lanes: each is one vLLM engine in a process of its own. Only this folder and `streamserve.api` import vLLM."""
