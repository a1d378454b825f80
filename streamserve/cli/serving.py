"""`streamserve serve` and `streamserve configs`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streamserve.cli.app import KEY_VARIABLE, app, examples
from streamserve.cli.inspection import verdicts
from streamserve.config import EMBEDDED_MODEL, Config, ServerConfig, config_folder, load, names
from streamserve.document import override
from streamserve.errors import SetupError


@app.command(
    epilog=examples(
        "streamserve serve",
        "streamserve serve Qwen/Qwen3-0.6B --config unified --port 9000",
        "streamserve serve ./my-model --config my.yaml --set engine.max_running=16",
        "streamserve serve --policy my-policy,canary:0.1 --tensorboard runs/serve",
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
        list[str] | None, typer.Option(help="A key that clients must send; repeatable.", envvar=KEY_VARIABLE)
    ] = None,
    router: Annotated[str | None, typer.Option(help="How stream pairs are chosen.", metavar="NAME")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="The trained policy on top of FlowGuard: auto, heuristic, or a name or folder; "
            "with ,learned ,shadow or ,canary:SHARE behind it.",
            metavar="POLICY[,MODE]",
        ),
    ] = None,
    decision_log: Annotated[
        Path | None,
        typer.Option(help="Append a line of JSON per request: where it ran, why, and what came of it.", metavar="FILE"),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write rewards and latencies for TensorBoard.", metavar="DIR")
    ] = None,
) -> None:
    """Start the server: an OpenAI-compatible endpoint over one or more vLLM lanes."""
    named = model or _model_of(settings or ())
    chosen, changes, reason = (config, (), "as asked") if config else _default_config(named)
    server = {"server.host": host, "server.port": port, "server.api_keys": api_key or None}
    source, mode = (None, None) if policy is None else _policy(policy)
    flags = {"model": model, "router": router, "policy.source": source, "policy.mode": mode, **server}
    overrides = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    loaded = load(chosen, [*changes, *(settings or ()), *overrides])
    _serve(loaded, f"Configuration {chosen}: {reason}", decision_log, tensorboard)


def _policy(text: str) -> tuple[str, str | None]:
    from streamserve.policy.mode import split

    return split(text)


def _serve(config: Config, headline: str, decision_log: Path | None, tensorboard: Path | None) -> None:
    from streamserve.api.server import run
    from streamserve.console import ConsoleStartup, log_lines

    console = Console()
    console.print(headline, highlight=False, markup=False, soft_wrap=True)
    if _open_to_others(config.server):
        reach = f"Anyone who reaches {config.server.host}"
        warning = f"{reach} may use this server, and change its depth and policy: give --api-key"
        console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)
    with log_lines(console), ConsoleStartup(console, needs_key=bool(config.server.api_keys)) as startup:
        run(config, startup, decision_log, tensorboard)


def _open_to_others(server: ServerConfig) -> bool:
    """Whether it listens beyond this machine and asks nobody for a key."""
    local = server.host in ("localhost", "::1") or server.host.startswith("127.")
    return not (local or server.api_keys or os.environ.get("VLLM_API_KEY"))


def _model_of(settings: Sequence[str]) -> str:
    """The model that `--set` names, else the embedded one. Raises `ConfigError`."""
    tree: dict[str, str] = {"model": EMBEDDED_MODEL}
    for setting in settings:
        if setting.partition("=")[0].strip() == "model":
            override(tree, setting)
    return tree["model"]


def _default_config(model: str) -> tuple[str, Sequence[str], str]:
    from streamserve import picked
    from streamserve.doctor import idle_cores, recommend
    from streamserve.machine import inspect_machine

    machine = inspect_machine()
    judged = verdicts(machine)
    able = {verdict.config for verdict in judged if not verdict.obstacles}
    file = picked.path()
    choice = picked.read(file).get(picked.key(model, machine.cores, machine.gpu_names))
    if choice is not None and choice.config in able:
        told = f" with {' '.join(choice.changes)}" if choice.changes else ""
        why = f"picked{told} by `streamserve bench --pick` on {choice.date} ({choice.reason}); another with --config"
        return choice.config, choice.changes, why
    recommendation = recommend(machine, judged)
    if recommendation is None:
        why = next((obstacle for verdict in reversed(judged) for obstacle in verdict.obstacles), "none is shipped")
        raise SetupError(f"no shipped configuration runs here ({why}): see `streamserve doctor`")
    idle = idle_cores(machine, load(recommendation.config, recommendation.changes))
    more = f"; its lanes leave {idle} of them idle, --set lanes.0.cores=N gives one more" if idle else ""
    return (
        recommendation.config,
        recommendation.changes,
        f"chosen for {recommendation.reason}{more}; another with --config",
    )


@app.command(epilog=examples("streamserve configs", "streamserve serve --config unified"))
def configs() -> None:
    """List the configurations that ship with StreamServe."""
    width = max(map(len, names()))
    for name in names():
        first = (config_folder() / f"{name}.yaml").read_text().partition("\n")[0]
        Console().print(
            f"{name:{width}}  {first.removeprefix('#').strip()}", highlight=False, markup=False, soft_wrap=True
        )
