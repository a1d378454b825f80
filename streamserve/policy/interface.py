"""Interface: which arrays a policy of each kind reads, and what its choices are."""

from collections.abc import Mapping

from streamserve.errors import ConfigError, PolicyError
from streamserve.policy.card import Card, CodecOf
from streamserve.policy.codec import Codec
from streamserve.policy.lane_codec import LaneCodec
from streamserve.policy.network import Weights

MOST_ROWS, MOST_CHOICES = 1024, 64


def described(codec: Codec | LaneCodec) -> CodecOf:
    """The codec as a card names it."""
    if isinstance(codec, LaneCodec):
        return CodecOf(codec.schema_hash(), codec.most_lanes)
    return CodecOf(codec.schema_hash(), codec.most_pairs, list(codec.depth_caps))


def codec(card: Card) -> Codec:
    """The codec of a policy of kind `route` or `serve`. Raises `PolicyError`."""
    made = card.codec
    if not (made.most_rows <= MOST_ROWS and len(made.depth_caps) <= MOST_CHOICES):
        raise PolicyError("card.json names a codec that is too large: export the policy again")
    try:
        return Codec(made.most_rows, tuple(made.depth_caps))
    except ConfigError as error:
        raise PolicyError(f"card.json names a codec that cannot be ({error}): export the policy again") from error


def lane_codec(card: Card) -> LaneCodec:
    """The codec of a policy of kind `spec`. Raises `PolicyError`."""
    if not 1 <= card.codec.most_rows <= MOST_ROWS:
        raise PolicyError("card.json names a codec that cannot be: export the policy again")
    return LaneCodec(card.codec.most_rows)


def check(card: Card, weights: Weights) -> None:
    """Whether card and weights fit this version's codec and each other. Raises `PolicyError`."""
    reads: Codec | LaneCodec
    if card.kind == "spec":
        reads = lane_codec(card)
        choices = len(reads.controls)
    else:
        reads = codec(card)
        choices = len(reads.depth_caps) if card.kind == "serve" else 1
    if reads.schema_hash() != card.codec.schema:
        raise PolicyError("it was trained for other observations than this version makes: train or export it again")
    features = {array: shape[-1] for array, shape in reads.shapes().items()}
    _check_envelope(card, features)
    inputs = sum(features.values())
    if (weights.inputs, weights.choices) != (inputs, choices):
        raise PolicyError(
            f"its network takes {weights.inputs} numbers for {weights.choices} choices, a {card.kind} policy takes "
            f"{inputs} for {choices}: export the policy again"
        )


def _check_envelope(card: Card, features: Mapping[str, int]) -> None:
    if {array: len(bounds.low) for array, bounds in card.envelope.items()} != features:
        raise PolicyError(f"card.json needs an envelope of {features} features: export the policy again")
