"""Seeds: which episodes belong to whom, so that no run meets another's, nor any comparison's."""

import numpy as np

TRAINING = 2**30
"""Seeds of training are from here on and below twice this; comparisons use lower ones."""


def stream(seed: int, done: int = 0) -> int:
    """Of a run with this seed that has made so many steps: the seed of its learner and of its first environment.

    Each further environment has the next one, so neighbouring seeds themselves would share most of their arrivals.
    """
    return TRAINING + int(np.random.SeedSequence([seed, done]).generate_state(1)[0] >> 2)
