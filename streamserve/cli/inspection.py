"""`streamserve doctor`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from streamserve.cli.app import app, examples
from streamserve.config import load, names

if TYPE_CHECKING:
    from streamserve.doctor import Finding, Recommendation, Verdict
    from streamserve.machine import Machine

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@app.command(epilog=examples("streamserve doctor", "streamserve doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
    port: Annotated[int, typer.Option(help="The port you mean to serve on.", min=0, max=65535)] = 8000,
) -> None:
    """Say what this machine can serve and what is missing; exit status 1 if it can serve nothing."""
    from streamserve.doctor import findings, recommend
    from streamserve.machine import inspect_machine

    machine = inspect_machine(port)
    found, judged = findings(machine), verdicts(machine)
    recommendation = recommend(machine, judged)
    if as_json:
        import msgspec

        report = {
            "machine": machine,
            "findings": found,
            "configs": judged,
            "recommendation": recommendation,
            "command": recommendation.command if recommendation else None,
        }
        print(json.dumps(msgspec.to_builtins(report), indent=2))
    else:
        _print_report(Console(), found, judged, recommendation)
    if all(verdict.obstacles for verdict in judged):
        raise typer.Exit(1)


def verdicts(machine: "Machine") -> "list[Verdict]":
    """What each shipped configuration would come to here."""
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
