"""n-gram drafts as vLLM's proposer makes them, kept up to date token by token."""

from collections.abc import Iterable, Sequence

from streamserve.specustream.draft import Draft, by_position


class NgramDrafter:
    """Drafts what followed the longest earlier occurrence of the sequence's end; of several, the earliest.

    Occurrences of `shortest` to `longest` tokens count and may overlap the end itself. Adding a token is O(1).
    Equal to `NgramProposer` of vLLM 0.32 (vllm/v1/spec_decode/ngram_proposer.py).
    """

    def __init__(self, shortest: int, longest: int, tokens: Iterable[int] = ()) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError(f"n-grams need 1 <= shortest <= longest, got {shortest} and {longest}")
        self._lengths = range(longest, shortest - 1, -1)
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}
        """Per n-gram, the place of the token after its earliest occurrence."""
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the end of the sequence."""
        sequence, following = self._tokens, self._next
        for token in tokens:
            sequence.append(token)
            end = len(sequence)
            for length in self._lengths:
                if length <= end:
                    following.setdefault(tuple(sequence[end - length :]), end)

    def propose(self, depth: int) -> Sequence[int]:
        """At most `depth` tokens that may come next; none where the end has not occurred before."""
        end = len(self._tokens)
        for length in self._lengths:
            if length <= end:
                place = self._next[tuple(self._tokens[end - length :])]
                if place < end:
                    return self._tokens[place : place + depth]
        return []


class NgramDrafts:
    """A `NgramDrafter` per request; a token's kind is its position, of `positions`."""

    def __init__(self, shortest: int, longest: int, positions: int) -> None:
        self._lengths = (shortest, longest)
        self._positions = positions
        self._requests: dict[str, tuple[NgramDrafter, int]] = {}

    def guesses(self) -> None:
        """None: kinds are positions."""

    def draft(self, request_id: str, tokens: Sequence[int], prompt_tokens: int, depth: int) -> Draft:
        """At most `depth` tokens that may follow `tokens`: the request's prompt and all output so far."""
        drafter, known = self._requests.get(request_id) or (NgramDrafter(*self._lengths), 0)
        drafter.extend(tokens[known:])
        self._requests[request_id] = drafter, len(tokens)
        return by_position(drafter.propose(depth), self._positions)

    def forget(self, request_id: str) -> None:
        """Drop a request's text."""
        self._requests.pop(request_id, None)
