"""docs/metrics.md describes every series that there is, with its labels, and no other."""

import re
from importlib.util import find_spec
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from streamserve.metrics.policy import PolicyCollector, PolicyTally
from streamserve.metrics.prometheus import LaneCollector
from streamserve.metrics.results import ResultMetrics
from tests.metrics.samples import Source, full_lane, result, signals

GLOSSARY = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
OURS = dict(re.findall(r"^\| `(streamserve:[a-z0-9_]+)` \|([^|]*)\|", GLOSSARY, re.MULTILINE))
THEIRS = re.findall(r"^\| `(vllm:[a-z0-9_]+)` \|", GLOSSARY, re.MULTILINE)
ADDED_BY_HISTOGRAMS = {"le"}


async def emitted() -> list[Metric]:
    """Everything that a server emits that has served one request, from a lane that knows all about itself."""
    registry = CollectorRegistry()
    ResultMetrics(registry).learn(result())
    tally = PolicyTally()
    tally.decided("learned", by_policy=True)
    lanes = LaneCollector(Source(signals(full_lane())))
    return [*registry.collect(), *lanes.collect(), *PolicyCollector(tally).collect()]


def public_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


async def test_every_series_is_described_and_no_other() -> None:
    assert sorted(OURS) == sorted(public_name(metric) for metric in await emitted())


async def test_every_series_has_the_labels_that_the_glossary_says() -> None:
    for metric in await emitted():
        labels = {label for sample in metric.samples for label in sample.labels} - ADDED_BY_HISTOGRAMS
        assert metric.samples, f"{metric.name} was never emitted"
        assert set(re.findall(r"`(\w+)`", OURS[public_name(metric)])) == labels, metric.name


async def test_every_series_has_a_help_text() -> None:
    assert all(metric.documentation.endswith(".") for metric in await emitted())


def test_vllm_has_the_series_that_are_named_as_its_own() -> None:
    spec = find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    nixl = "distributed/kv_transfer/kv_connector/v1/nixl/stats.py"
    sources = "".join(
        (root / path).read_text() for path in ("v1/metrics/loggers.py", "v1/spec_decode/metrics.py", nixl)
    )
    # A counter is declared without the suffix that it is exposed with.
    assert THEIRS and [name for name in THEIRS if f'"{name.removesuffix("_total")}"' not in sources] == []
