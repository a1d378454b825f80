"""The one vLLM version whose internals this folder is written against."""

from importlib.util import find_spec

from streamserve.errors import SetupError

SUPPORTED = "0.32.0"


def check() -> None:
    """Import vLLM and compare its version; raises `SetupError` when it is missing or another one."""
    if find_spec("vllm") is None:
        raise SetupError("vLLM is not installed: run `make setup`, or on a GPU `pip install 'streamserve[gpu]'`")
    import vllm

    if vllm.__version__.split("+")[0] != SUPPORTED:
        raise SetupError(
            f"StreamServe needs vLLM {SUPPORTED}, this environment has {vllm.__version__}: it uses vLLM's internals, "
            f"which move between versions; run `make setup` or install vllm=={SUPPORTED}"
        )
