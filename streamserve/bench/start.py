"""`python -m streamserve.bench.start`: how long `streamserve serve` takes until it answers, one lane against a pair."""

import argparse
import subprocess
import sys
import time
from contextlib import suppress
from threading import Event

import httpx

from streamserve.bench.figures import ratio, spread
from streamserve.lanes.vllm.environment import free_port

ONE_LANE = ["--config", "unified", "--set", "lanes.0.cores=1"]
PAIR = ["--config", "cpu-pair"]
POLL_S = 0.05


def started_in_s(arguments: list[str]) -> float:
    """Seconds from the command to the first healthy answer; the server is stopped afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "streamserve", "serve", "--port", str(port), *arguments]
    pause = Event()
    begun_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=POLL_S * 4).status_code == httpx.codes.OK:
                        return time.monotonic() - begun_s
                pause.wait(POLL_S)
            raise SystemExit(f"the server ended with status {server.returncode}")
        finally:
            server.terminate()


def main(repeats: int) -> None:
    one_s, pair_s = [], []
    for _ in range(repeats):
        one_s.append(started_in_s(ONE_LANE))
        pair_s.append(started_in_s(PAIR))
    print(f"one lane, one core   s  {spread(one_s)}")
    print(f"a pair               s  {spread(pair_s)}")
    print(f"  over one lane      x  {ratio(pair_s, one_s)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args().repeats)
