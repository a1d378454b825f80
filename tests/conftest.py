"""Shared by all tests: one real server for the session, and the order that lets tests share it."""

from collections.abc import Iterator

import pytest

from tests.live.server import Server, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The default topology, started once; a test that hurts it waits until it has recovered."""
    # Agents may come, for the tests in which one does; nobody waits as long as by default for an engine that hangs.
    arguments = ("--config", "cpu-pair", "--set", "policy.remote=true", "--set", "engine.hang_s=20")
    with running(tmp_path_factory.mktemp("server") / "log.txt", *arguments) as ready:
        yield ready


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first; then those on the session's server together, before tests start servers beside it."""

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("live") is None:
            return 0
        return 1 if "server" in getattr(item, "fixturenames", ()) else 2

    items.sort(key=place)
