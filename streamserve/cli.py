"""The command line: `streamserve serve | chat | doctor | configs`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from streamserve import __version__
from streamserve.config import Config, config_folder, load, names
from streamserve.errors import ConfigError, SetupError, StreamServeError

# What a command needs beyond this is imported inside it: `streamserve --help` waits for no HTTP client or GPU driver.
if TYPE_CHECKING:
    from streamserve.doctor import Finding, Recommendation, Verdict
    from streamserve.machine import Machine

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_KEY_VARIABLE = "STREAMSERVE_API_KEY"
_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def main() -> None:
    """The console script: an error of ours is one red line and exit status 1, or 2 if the configuration is wrong."""
    try:
        app()
    except StreamServeError as error:
        from streamserve.console import error_line

        Console(stderr=True).print(error_line(error), soft_wrap=True)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None


def _examples(*lines: str) -> str:
    # \b keeps the line breaks.
    return "\b\nExamples:\n" + "\n".join(f"  [cyan]{line}[/cyan]" for line in lines)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"streamserve {__version__}")
        raise typer.Exit


@app.callback(epilog=_examples("streamserve doctor", "streamserve serve", "streamserve chat"))
def streamserve(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """LLM serving in which routing and speculation depth are learned."""


@app.command(
    epilog=_examples(
        "streamserve serve",
        "streamserve serve Qwen/Qwen3-0.6B --config unified --port 9000",
        "streamserve serve ./my-model --config my.yaml --set engine.max_running=16",
    )
)
def serve(
    model: Annotated[
        str | None, typer.Argument(help="A Hugging Face id or a folder; default: the embedded model.", metavar="MODEL")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="A name from `streamserve configs` or a YAML file; default: what this machine can run.",
            metavar="NAME|FILE",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; repeatable.", metavar="KEY=VALUE")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on.")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help="A key that clients must send; repeatable.", envvar=_KEY_VARIABLE)
    ] = None,
    router: Annotated[str | None, typer.Option(help="How stream pairs are chosen.", metavar="NAME")] = None,
    decision_log: Annotated[
        Path | None,
        typer.Option(help="Append a line of JSON per request: where it ran, why, and what came of it.", metavar="FILE"),
    ] = None,
) -> None:
    """Start the server: an OpenAI-compatible endpoint over one or more vLLM lanes."""
    chosen, reason = (config, "as asked") if config else _default_config()
    server = {"server.host": host, "server.port": port, "server.api_keys": api_key or None}
    flags = {"model": model, "router": router, **server}
    overrides = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    _serve(load(chosen, [*(settings or ()), *overrides]), f"Configuration {chosen}: {reason}", decision_log)


def _serve(config: Config, headline: str, decision_log: Path | None) -> None:
    from streamserve.api.server import run
    from streamserve.console import ConsoleStartup, log_lines

    console = Console()
    console.print(headline, highlight=False, markup=False, soft_wrap=True)
    with log_lines(console), ConsoleStartup(console, needs_key=bool(config.server.api_keys)) as startup:
        run(config, startup, decision_log)


def _default_config() -> tuple[str, str]:
    from streamserve.doctor import recommend
    from streamserve.machine import inspect_machine

    machine = inspect_machine()
    verdicts = _verdicts(machine)
    recommendation = recommend(machine, verdicts)
    if recommendation is None:
        why = next((obstacle for verdict in reversed(verdicts) for obstacle in verdict.obstacles), "none is shipped")
        raise SetupError(f"no shipped configuration runs here ({why}): see `streamserve doctor`")
    return recommendation.config, f"chosen for {recommendation.reason}; another with --config"


@app.command(
    epilog=_examples(
        "streamserve chat",
        'streamserve chat "Why is the sky blue?" --max-tokens 100',
        "streamserve chat --url http://gpu-box:8000 < question.txt",
    )
)
def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this, print the answer, and end.", metavar="PROMPT")] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="The model's name; default: the first that is served.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The key to send.", envvar=_KEY_VARIABLE)] = None,
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


@app.command(epilog=_examples("streamserve doctor", "streamserve doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
    port: Annotated[int, typer.Option(help="The port you mean to serve on.")] = 8000,
) -> None:
    """Say what this machine can serve and what is missing; exit status 1 if it can serve nothing."""
    from streamserve.doctor import findings, recommend
    from streamserve.machine import inspect_machine

    machine = inspect_machine(port)
    found, verdicts = findings(machine), _verdicts(machine)
    recommendation = recommend(machine, verdicts)
    if as_json:
        import msgspec

        report = {
            "machine": machine,
            "findings": found,
            "configs": verdicts,
            "recommendation": recommendation,
            "command": recommendation.command if recommendation else None,
        }
        print(json.dumps(msgspec.to_builtins(report), indent=2))
    else:
        _print_report(Console(), found, verdicts, recommendation)
    if all(verdict.obstacles for verdict in verdicts):
        raise typer.Exit(1)


def _verdicts(machine: "Machine") -> "list[Verdict]":
    from streamserve.doctor import verdict

    return [verdict(machine, name, load(name)) for name in names()]


def _print_report(
    console: Console,
    found: "Sequence[Finding]",
    verdicts: "Sequence[Verdict]",
    recommendation: "Recommendation | None",
) -> None:
    def line(*parts: str | tuple[str, str]) -> None:
        console.print(Text.assemble(*parts), soft_wrap=True)

    line(("This machine", "bold"))
    for finding in found:
        line((f"  {finding.level:8}", _LEVEL_STYLES[finding.level]), f" {finding.text}")
        if finding.remedy:
            line(f"           {finding.remedy}")
    line(("Configurations", "bold"))
    width = max(len(verdict.config) for verdict in verdicts)
    for verdict in verdicts:
        answer = ("  no ", "red") if verdict.obstacles else ("  yes", "green")
        line(answer, f"  {verdict.config:{width}}  {'; '.join(verdict.obstacles)}")
    if recommendation:
        line(("Recommended", "bold"), f" for {recommendation.reason}")
        line((f"  {recommendation.command}", "cyan"))
    else:
        line(("Nothing can be served here yet", "bold red"), ": see above what stands in the way")


@app.command(epilog=_examples("streamserve configs", "streamserve serve --config unified"))
def configs() -> None:
    """List the configurations that ship with StreamServe."""
    width = max(map(len, names()))
    for name in names():
        first = (config_folder() / f"{name}.yaml").read_text().partition("\n")[0]
        Console().print(
            f"{name:{width}}  {first.removeprefix('#').strip()}", highlight=False, markup=False, soft_wrap=True
        )
