"""What a card says of how it was made."""

import pytest

from agents.export import command


@pytest.mark.parametrize("program", ["/opt/venv/bin/streamserve", "/opt/checkout/streamserve/__main__.py"])
def test_the_command_names_the_program_and_no_place(program: str) -> None:
    assert command([program, "train", "--name", "a b"]) == "streamserve train --name 'a b'"
