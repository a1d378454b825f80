"""Whose key may change a lane."""

from argparse import Namespace

import pytest

from streamserve.config import ServerConfig


@pytest.mark.parametrize(
    ("admin", "clients", "environment", "expected"),
    [
        (["admin"], ["client"], "env", ["admin"]),
        (["admin"], None, "", ["admin"]),
        ([], ["one", "two"], "env", ["one", "two"]),
        ([], None, "env", ["env"]),
        ([], None, "", []),
    ],
)
def test_admin_keys(
    monkeypatch: pytest.MonkeyPatch, admin: list[str], clients: list[str] | None, environment: str, expected: list[str]
) -> None:
    from streamserve.api.app import _admin_keys

    monkeypatch.setenv("VLLM_API_KEY", environment)
    assert _admin_keys(Namespace(api_key=clients), ServerConfig(admin_keys=admin)) == expected
