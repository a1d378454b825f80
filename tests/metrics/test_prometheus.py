"""The lanes' signals at a scrape."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from streamserve.clock import now
from streamserve.metrics.prometheus import install
from streamserve.signals import DeviceSignals, LaneLoad, LaneSignals
from streamserve.types import LaneState
from tests.metrics.samples import A, B, Source, full_lane, signals


async def scraped(source: Source) -> CollectorRegistry:
    registry = CollectorRegistry()
    install(source, registry)
    return registry


async def test_values_and_labels() -> None:
    source = Source(signals(full_lane(at_s=now() - 3), queued=7, a=LaneLoad(1, 50, 2)))
    registry = await scraped(source)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"streamserve:{name}", {"lane": "a", **labels})

    assert registry.get_sample_value("streamserve:queued_requests") == 7
    assert (value("dispatched_requests", part="prefill"), value("dispatched_requests", part="decode")) == (1, 2)
    assert value("dispatched_prefill_tokens") == 50
    assert value("lane_signal_age_seconds") == pytest.approx(3, abs=0.5)
    assert (value("lane_state", state="ready"), value("lane_state", state="lost")) == (1, 0)
    assert (value("acceptance", position="1"), value("acceptance", position="2")) == (0.8, 0.5)
    assert value("step_cost_seconds", tokens="8") == 0.05
    assert (value("depth_mode", mode="fixed"), value("depth_fixed"), value("depth_max")) == (1, 3, 6)
    assert value("lane_ttft_average_seconds", window="10s") == 0.3
    assert value("kv_transfer_average_seconds", window="120s") == 0.02
    assert (value("lane_restarts_total"), value("steps_total")) == (2, 5)


async def test_what_is_not_known_is_absent() -> None:
    bare = LaneSignals(B, LaneState.STARTING, 0.0, device=DeviceSignals())
    text = generate_latest(await scraped(Source(signals(full_lane(), bare)))).decode()
    shown = {line.partition("{")[0] for line in text.splitlines() if 'lane="b"' in line}
    absent = {"lane_signal_age_seconds", "depth_mode", "depth_fixed", "lane_ttft_average_seconds", "lane_cpu_cores"}
    assert "streamserve:lane_state" in shown
    assert not shown & {f"streamserve:{name}" for name in absent}


async def test_a_scrape_from_a_thread_reads_on_the_serving_loop() -> None:
    read_on: list[asyncio.AbstractEventLoop] = []

    class Noting(Source):
        def signals(self):  # type: ignore[no-untyped-def]
            read_on.append(asyncio.get_running_loop())
            return super().signals()

    registry = await scraped(Noting(signals(full_lane(at_s=now()))))
    text = await asyncio.to_thread(generate_latest, registry)
    assert b'streamserve:kv_tokens{lane="a"} 4096.0' in text
    assert read_on == [asyncio.get_running_loop()]


async def test_each_scrape_shows_the_signals_of_its_moment() -> None:
    source = Source(signals(full_lane()))
    registry = await scraped(source)
    source.now = signals(full_lane(step_s=0.5))
    assert registry.get_sample_value("streamserve:step_seconds", {"lane": A}) == 0.5


async def test_two_servers_cannot_share_a_registry_unnoticed() -> None:
    registry = await scraped(Source(signals(full_lane())))
    with pytest.raises(ValueError, match="Duplicated"):
        install(Source(signals(full_lane())), registry)
