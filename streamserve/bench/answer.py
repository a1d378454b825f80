"""`python -m streamserve.bench.answer`: how long a trained policy takes on top of FlowGuard, by the number of pairs.

The weights are random: time does not depend on them. Below each row stands what the same work costs that never changes
(see `decision`).
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence

import numpy as np

from streamserve.bench.decision import moments, reference, shown
from streamserve.flowguard.flowguard import FlowGuard
from streamserve.policy.codec import Codec
from streamserve.policy.learned import FLAG, SCORE
from streamserve.policy.network import Network, Weights, best
from streamserve.policy.rhythm import Rhythm
from streamserve.types import LaneId

LANES = 8


def answers(pairs: int, count: int) -> tuple[list[float], list[float]]:
    """Seconds of encoding and of the network with its choice, for so many decisions on this many pairs."""
    ids = [LaneId(f"lane-{place}") for place in range(LANES)]
    flowguard = FlowGuard(tuple((prefill, decode) for prefill in ids for decode in ids)[:pairs])
    codec = Codec(most_pairs=pairs)
    shapes = codec.shapes()
    inputs = sum(shape[-1] for shape in shapes.values())
    network = Network(Weights.untrained(inputs, len(codec.depth_caps), np.random.default_rng(0)))
    rhythm = Rhythm()
    encoding_s, choosing_s = [], []
    for request, signals in moments(LANES, count, 0.5, random.Random(pairs)):
        assessment = flowguard.assess(request, signals)
        own = flowguard.best(assessment)
        begun_s = time.perf_counter()
        question = codec.question(assessment, own, signals, rhythm.beat(signals.at_s))
        encoded_s = time.perf_counter()
        rows = question.observation["pairs"][: len(question.places)]
        shared = np.concatenate([question.observation["request"], question.observation["context"]])
        logits = network.logits(rows, shared, rows[:, FLAG] + rows[:, SCORE])
        best(logits, question.depths[: len(rows)])
        choosing_s.append(time.perf_counter() - encoded_s)
        encoding_s.append(encoded_s - begun_s)
        flowguard.choose(assessment, own)
    return encoding_s[count // 10 :], choosing_s[count // 10 :]


def main(pairs: Sequence[int], decisions: int) -> None:
    print(f"us per decision, median / p99 of {decisions}")
    print(f"{'pairs':>20}" + "".join(f"{count:>16}" for count in pairs))
    times = [answers(count, decisions) for count in pairs]
    for place, name in enumerate(("encoding", "network")):
        taken = [each[place] for each in times]
        print(f"{name:>20}" + "".join(f"{shown(each):>16}" for each in taken), flush=True)
        same = [reference(decisions, statistics.median(each)) for each in taken]
        print(f"{'(the same work)':>20}" + "".join(f"{shown(each):>16}" for each in same), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", nargs="+", type=int, default=[1, 4, 8, 16, 64])
    parser.add_argument("--decisions", type=int, default=5000)
    arguments = parser.parse_args()
    main(arguments.pairs, arguments.decisions)
