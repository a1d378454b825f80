"""Drafts from history: what last followed the longest piece of text that was seen before.

Like prompt lookup (vLLM's n-gram proposer) it needs no model. It differs in three ways: the piece is looked up again
after every drafted token; in the request's own text and then in what the lane wrote for earlier requests, as suffix
decoding does (arXiv 2411.04975); and every token comes with a kind, which says where it was found, how long the piece
was, whether another token ever followed it, and how often this one did. Acceptance differs between kinds from 0.1 to
0.99, and SpecuStream learns it.
"""

from collections.abc import Sequence

from streamserve.specustream.draft import NO_DRAFT, Draft

COUNTS = 3
"""A token that followed a piece this often in a row, or oftener, is one kind."""
TOKEN_BITS = 24
"""Room for a token in a piece's key. Pieces of ids of 2**24 - 1 or more may share a key: worse drafts, no worse output.

Python hashes integers modulo 2**61 - 1: multiples of 24 leave the tokens of a piece well apart there.
"""
COUNT_BITS = 2
COUNT_MASK = (1 << COUNT_BITS) - 1
DOUBT = 1 << COUNT_BITS
"""Set in an entry, from its lowest bit: count, doubt, token. Another token has followed the piece before."""
ENTRY_BITS = COUNT_BITS + 1
DOUBTED = 0.6
"""The guess for a token in doubt, over that for one that is not."""


class HistoryDrafter:
    """Drafts for the requests of one lane.

    longest: tokens of the longest piece that is looked up. shared_tokens: output tokens remembered across requests, 0 =
    each request by itself; prompts are never shared.
    """

    def __init__(self, longest: int, shared_tokens: int) -> None:
        if longest < 1 or shared_tokens < 0:
            raise ValueError(f"history needs longest >= 1 and shared_tokens >= 0, got {longest} and {shared_tokens}")
        self._longest = longest
        self._masks = [(1 << TOKEN_BITS * length) - 1 for length in range(1, longest + 1)]
        self._generation_tokens = (shared_tokens + 1) // 2
        self._requests: dict[str, _Text] = {}
        self._shared: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self._learned_tokens = 0

    @property
    def kinds(self) -> int:
        """How many kinds of tokens there are."""
        return 2 * self._longest * 2 * COUNTS

    def guesses(self) -> list[float]:
        """Per kind, the acceptance to assume before anything was seen.

        Higher for longer pieces, for more repeats, where nothing else ever followed, and for the request's own text.
        """
        own = [0.25 + 0.6 * length / max(1, self._longest - 1) for length in range(self._longest)]
        once = [rate * share * doubt for share in (1.0, 0.5) for rate in own for doubt in (1.0, DOUBTED)]
        return [1 - (1 - rate) * 0.6**count for rate in once for count in range(COUNTS)]

    def draft(self, request_id: str, tokens: Sequence[int], prompt_tokens: int, depth: int) -> Draft:
        """At most `depth` tokens that may follow `tokens`: the request's prompt and all output so far."""
        text = self._requests.get(request_id)
        if text is None:
            text = self._requests[request_id] = _Text()
        self._learn(text, tokens, prompt_tokens)
        if depth <= 0:
            return NO_DRAFT
        masks, longest = self._masks, self._longest
        following, shared, older = text.following, self._shared, self._older
        window, lengths = text.window, min(text.known, longest)
        drafted: list[int] = []
        kinds: list[int] = []
        while len(drafted) < depth:
            for length in range(lengths - 1, -1, -1):
                key = window & masks[length]
                kind = length
                entry = following.get(key)
                if entry is None:
                    kind = longest + length
                    entry = shared.get(key)
                    if entry is None:
                        entry = older.get(key)
                if entry is not None:
                    break
            else:
                break
            token = entry >> ENTRY_BITS
            drafted.append(token)
            kinds.append((2 * kind + (entry & DOUBT > 0)) * COUNTS + (entry & COUNT_MASK) - 1)
            window = (window << TOKEN_BITS | token + 1) & masks[-1]
            lengths = min(lengths + 1, longest)
        return Draft(drafted, kinds)

    def forget(self, request_id: str) -> None:
        """Drop a request's own text; what it added to the shared history stays."""
        self._requests.pop(request_id, None)

    def _learn(self, text: "_Text", tokens: Sequence[int], prompt_tokens: int) -> None:
        place = text.known
        if place >= len(tokens):
            return
        masks, window = self._masks, text.window
        for token in tokens[place:]:
            known = masks if place >= len(masks) else masks[:place]
            _count(text.following, window, known, token)
            if place >= prompt_tokens and self._generation_tokens:
                _count(self._shared, window, known, token)
                self._turn_over()
            window = (window << TOKEN_BITS | token + 1) & masks[-1]
            place += 1
        text.known, text.window = place, window

    def _turn_over(self) -> None:
        """Two generations bound the shared history: when the younger is full, the older goes."""
        self._learned_tokens += 1
        if self._learned_tokens >= self._generation_tokens:
            self._older, self._shared = self._shared, {}
            self._learned_tokens = 0


class _Text:
    """What one request has taught: per piece, what last followed it.

    window: the last tokens, each raised by one, the latest in the lowest bits. A piece's key is as many of its low bits
    as the piece has tokens: since no raised token is zero, no two pieces share one.
    """

    __slots__ = ("following", "known", "window")

    def __init__(self) -> None:
        self.following: dict[int, int] = {}
        self.known = 0
        self.window = 0


def _count(following: dict[int, int], window: int, masks: Sequence[int], token: int) -> None:
    """Note that the token followed the pieces at the window's end; after another than last time it starts at one."""
    once = token << ENTRY_BITS | 1
    for mask in masks:
        key = window & mask
        entry = following.get(key)
        if entry is None:
            following[key] = once
        elif entry >> ENTRY_BITS != token:
            following[key] = once | DOUBT
        elif entry & COUNT_MASK < COUNTS:
            following[key] = entry + 1
