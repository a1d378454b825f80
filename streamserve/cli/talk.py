"""`streamserve chat`."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from streamserve.cli.app import KEY_VARIABLE, app, examples
from streamserve.errors import ConfigError


@app.command(
    epilog=examples(
        "streamserve chat",
        'streamserve chat "Why is the sky blue?" --max-tokens 100',
        "streamserve chat --url http://gpu-box:8000 < question.txt",
    )
)
def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this, print the answer, and end.", metavar="PROMPT")] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="The model's name; default: the first that is served.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The key to send.", envvar=KEY_VARIABLE)] = None,
    system: Annotated[str | None, typer.Option(help="A system message.", metavar="TEXT")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer.", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = the likeliest token each time.", min=0)] = None,
) -> None:
    """Talk to a running server; Ctrl-C stops an answer, Ctrl-D ends the talk."""
    from streamserve.chat import Conversation, Sampling, answer_once, connect, converse, first_model

    interactive = prompt is None and sys.stdin.isatty()
    if not interactive:
        prompt = prompt if prompt is not None else sys.stdin.read()
        if not prompt.strip():
            raise ConfigError('the prompt is empty: write streamserve chat "a question"')
    out, notes = Console(), Console(stderr=True)
    with connect(url, api_key) as http:
        name = model or first_model(http)
        conversation = Conversation(http, name, Sampling(max_tokens, temperature), system)
        if prompt is not None:
            answer = answer_once(conversation, prompt, out, notes)
            raise typer.Exit(130 if answer.stopped else 0)
        notes.print(f"{name} at {url}", markup=False, highlight=False)
        converse(conversation, _read_line, out, notes)


def _read_line() -> str:
    import readline  # noqa: F401  # importing it gives input() line editing and history

    return input("> ")
