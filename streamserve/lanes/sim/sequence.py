"""A request on one simulated lane."""

from collections.abc import Sequence as Tokens

from streamserve.errors import ServeError
from streamserve.lanes.sim.cache import chain
from streamserve.lanes.sim.drafts import NONE, Drafts, Luck, Replay
from streamserve.lanes.sim.outputs import Outputs
from streamserve.lanes.sim.work import SimWork
from streamserve.specustream.draft import Draft
from streamserve.types import Finish, KVHandle, Request

FIRST_TOKEN = 1_000
"""Output tokens are numbers from here on: which ones does not matter, but every lane must generate the same."""
VOCABULARY = 30_000
CHUNK_TOKENS = 64
"""Tokens that are kept back for a chunk: every chunk wakes every task between the engine and the client."""


def work_of(request: Request) -> SimWork:
    """The request's future. Raises `TypeError` where it has none."""
    if not isinstance(request.payload, SimWork):
        raise TypeError(f"a simulated lane needs SimWork as payload of {request.id}, got {type(request.payload)}")
    return request.payload


def output_token(request: Request, position: int) -> int:
    """Token at this place of the request's output, on any simulated lane."""
    first = request.prompt_token_ids[0] if request.prompt_token_ids else 0
    return FIRST_TOKEN + (7 * request.prompt_tokens + 31 * first + position) % VOCABULARY


class Sequence:
    """What a lane's engine knows of a request.

    hold: keep the KV after the first token, for a decode lane. kv: where the prompt's KV lies, None = compute it here.
    sent: output tokens that the client has already.
    Raises `ServeError` where nothing is left to generate.
    """

    def __init__(self, request: Request, hold: bool, kv: KVHandle | None, sent: Tokens[int]) -> None:
        work = work_of(request)
        stops = work.output_tokens < request.max_tokens
        self.id = request.id
        self.request = request
        self.workload = work.workload
        self.hold = hold
        self.kv = kv
        self.fetched_tokens = request.prompt_tokens if kv is not None else 0
        self.output = len(sent)
        """Output tokens so far, those sent before included."""
        self.target = max(1, min(work.output_tokens, request.max_tokens))
        """Output tokens at its end."""
        self.finish = Finish.STOP if stops else Finish.LENGTH
        self.end = 1 if hold else self.target
        """Output tokens at its end on this lane."""
        if self.output >= self.target:
            raise ServeError(f"{request.id}: all of its {self.target} tokens were sent already; it cannot go on")
        self.context = request.prompt_tokens + self.output
        self.to_compute = self.context
        """Tokens whose KV was needed for the next output token when that was more than the newest one's."""
        self.computed = 0
        """Of those, how many are there; all but one while it decodes."""
        self.hashes: tuple[int, ...] = ()
        self.held: list[int] = []
        """Hashes of the blocks that it holds and that can be found."""
        self.blank = 0
        """Its other blocks."""
        self.published = 0
        """Blocks of its prompt that were offered to the cache."""
        self.outputs = Outputs()
        self.told = self.output
        """Output tokens that its reader was given."""
        self.first = True
        """Whether it has yet to make a token here."""
        self.tell_at = 0
        """Output tokens from which on its reader is given some: the first, then so many at once, and all at its end."""
        self.over = False
        self.joined = False
        """Whether it has yet to make its first step after its KV came from another lane: nothing was drafted for it."""
        self.replays = work.found is not None
        """Whether its drafts are those of its own text, one per output token, and not drawn, one per step."""
        self.at = self.output if self.replays else max(0, self.output - 1)
        """Where it is in its drafts: output tokens or decode steps so far."""
        self._drafts: Drafts | None = None
        self._luck: Luck | Replay | None = None
        self.drafts: list[Draft] = []
        self.misses: list[list[float]] = []
        """As `Drafts.misses`."""
        self.lengths: list[int] = []
        """The most draft tokens of each class that may be verified for it."""

    @property
    def decoding(self) -> bool:
        """Whether its next step computes one token."""
        return self.to_compute - self.computed == 1

    @property
    def blocks(self) -> int:
        return len(self.held) + self.blank

    @property
    def cap(self) -> int:
        """The most draft tokens that its next step may verify."""
        left = self.request.max_tokens - self.output - 1
        asked = self.request.max_depth
        return left if asked is None else min(left, asked)

    @property
    def continues(self) -> bool:
        """Whether it goes on on a decode lane after its first token, which ends it only where it is sent."""
        return self.hold and (self.target > 1 or not self.request.continuable)

    def speculates(self, drafts: Drafts) -> None:
        """It is drafted for. Raises `ConfigError`."""
        drafts.chain(self.workload)
        self._drafts = drafts
        self.drafts = drafts.drafts(self.workload)
        self.misses = drafts.misses(self.workload)
        most = self.request.max_depth
        self.lengths = [len(each.tokens) if most is None else min(most, len(each.tokens)) for each in self.drafts]

    def hashed(self, block_tokens: int, sent: Tokens[int]) -> None:
        """Find out the hashes of the blocks of its prompt."""
        prompt = self.request.prompt_token_ids
        self.hashes = chain((*prompt, *sent) if sent else prompt, block_tokens)

    @property
    def draft(self) -> tuple[int, float]:
        """Class and chance of its next decode step."""
        if self._drafts is None or self.joined:
            return NONE, 0.0
        luck, at = self._luck, self.at
        if luck is None or at >= len(luck.places):
            luck = self.luck(at)
        return luck.places[at], luck.chances[at]

    def luck(self, at: int) -> Luck | Replay:
        """Its drafts up to there; made when it first decodes, which a prefill hop hardly ever does."""
        luck = self._luck
        if luck is None:
            assert self._drafts is not None
            work = work_of(self.request)
            if work.found is None:
                luck = Luck(self._drafts.chain(self.workload), work.seed)
            else:
                luck = self._drafts.replay(self.workload, work.found, work.seed)
            self._luck = luck
        if at >= len(luck.places):
            luck.reach(at)
        return luck

    def prefilled(self) -> None:
        """Its prompt is computed, which makes a token."""
        self.output += 1
        self.at += self.replays
        self.context += 1
        self.to_compute = self.context

    def gain(self, tokens: int, steps: int) -> None:
        """These decode steps made so many tokens."""
        self.output += tokens
        self.context += tokens
        # Nothing was drafted for its first step after its KV came: its luck is not used up by that one.
        self.at = self.output if self.replays else self.at + steps - self.joined
        self.joined = False

    def restart(self) -> None:
        """Its KV is lost: everything so far has to be computed again."""
        self.kv = None
        self.joined = False
        self.computed = 0
        self.to_compute = self.context

    def untold(self) -> range:
        """Tokens that its reader was not given yet, and has now."""
        first = output_token(self.request, self.told)
        tokens = range(first, first + self.output - self.told)
        self.told = self.output
        self.first = False
        self.tell_at = min(self.end, self.told + CHUNK_TOKENS)
        return tokens
