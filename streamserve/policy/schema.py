"""The fingerprint of a schema."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(schema: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, whatever order their keys are in."""
    text = json.dumps(schema, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
