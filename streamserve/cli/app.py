"""The command line's application; what a command needs beyond this is imported inside it.

So `streamserve --help` waits for no HTTP client, GPU driver or training library.
"""

from typing import Annotated

import typer
from rich.console import Console

from streamserve import __version__
from streamserve.errors import ConfigError, StreamServeError

KEY_VARIABLE = "STREAMSERVE_API_KEY"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script: an error of ours is one red line and exit status 1, or 2 if the configuration is wrong."""
    try:
        app()
    except StreamServeError as error:
        from streamserve.console import error_line

        Console(stderr=True).print(error_line(error), soft_wrap=True)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


def examples(*lines: str) -> str:
    """The end of a command's help."""
    # \b keeps the line breaks.
    return "\b\nExamples:\n" + "\n".join(f"  [cyan]{line}[/cyan]" for line in lines)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"streamserve {__version__}")
        raise typer.Exit


@app.callback(epilog=examples("streamserve doctor", "streamserve serve", "streamserve chat"))
def streamserve(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """LLM serving in which routing and speculation depth are learned."""


def parts(text: str | None) -> tuple[str, ...]:
    """What is separated by commas."""
    return tuple(each for each in (text or "").split(",") if each)
