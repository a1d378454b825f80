"""Time belongs to the event loop: under a virtual loop, `now` is virtual too."""

import asyncio


def now() -> float:
    """Seconds of the running loop's clock; only differences mean anything."""
    return asyncio.get_running_loop().time()
