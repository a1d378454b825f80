"""What an engine would report of a request, for lanes that have none: benchmarks and tests of the front."""

from vllm.v1.engine import EngineCoreOutput, FinishReason


def engine_output(request_id: str, token_ids: list[int], finished: bool) -> EngineCoreOutput:
    """These tokens of the request, the last ones if it is finished: by its length, as no engine stopped it."""
    return EngineCoreOutput(request_id, token_ids, finish_reason=FinishReason.LENGTH if finished else None)
