"""vLLM's OpenAI application, told to serve from our lanes."""

from argparse import Namespace
from pathlib import Path

from starlette.types import ASGIApp
from vllm import envs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from streamserve.api import agent, batches, policy, routes
from streamserve.api.admin import Keys, PostsNeedKeys
from streamserve.api.engine_client import TASKS, StreamServeClient
from streamserve.api.middleware import BodyLimitMiddleware, HeadersMiddleware
from streamserve.config import ServerConfig
from streamserve.errors import ConfigError
from streamserve.policy.switch import PolicySwitch
from streamserve.scheduler.scheduler import StreamScheduler


def served_name(model: str, server: ServerConfig) -> str:
    """The name clients use: as configured, else the folder's own name, else the model's id."""
    if server.served_model_name:
        return server.served_model_name
    return Path(model).name if Path(model).is_dir() else model


UNUSED = ("host", "port", "uds", "uvicorn-log-level", "enable-ssl-refresh")
UNUSED_BEGINNINGS = ("ssl-", "h11-", "grpc-")
"""Options of how vLLM's own server listens: we listen ourselves, so they would do nothing."""


def options(model: str, server: ServerConfig) -> Namespace:
    """vLLM's server options for this configuration; raises `ConfigError` for an option vLLM does not know."""
    flags = ["--model", model, "--served-model-name", served_name(model, server), "--disable-uvicorn-access-log"]
    if server.api_keys:
        flags += ["--api-key", *server.api_keys]
    if server.tool_call_parser:
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", server.tool_call_parser]
    for name, value in server.extra.items():
        _check_used(name)
        flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    parser = make_arg_parser(FlexibleArgumentParser(exit_on_error=False))
    parser.error = _refuse  # type: ignore[method-assign, assignment]
    args: Namespace = parser.parse_args(flags)
    try:
        validate_api_server_args(args)
    except KeyError as error:
        raise ConfigError(f"server: {error.args[0]}") from error
    return args


async def build(
    args: Namespace,
    client: StreamServeClient,
    scheduler: StreamScheduler,
    server: ServerConfig,
    policies: PolicySwitch | None = None,
) -> ASGIApp:
    """The application, ready to be served; it can be built while lanes still load.

    policies: which one serves can be asked and changed.
    """
    app = build_app(args, TASKS, client.model_config)
    await init_app_state(client, app.state, args, TASKS)
    batches.count_prompts(app.state, client.check_admission)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) != "/health"]
    admins = Keys(_admin_keys(args, server))
    app.include_router(routes.router(scheduler, admins, policies))
    if policies is not None:
        app.include_router(policy.router(policies, admins))
        app.include_router(agent.router(scheduler, policies, admins))
    # Around the application and not in it: vLLM has closed its own list of middleware by now.
    guarded = PostsNeedKeys(app, Keys(_client_keys(args), "an API key"))
    return HeadersMiddleware(BodyLimitMiddleware(guarded, server.max_body_bytes))


def _client_keys(args: Namespace) -> list[str]:
    """Every key that vLLM itself would accept."""
    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]


def _admin_keys(args: Namespace, server: ServerConfig) -> list[str]:
    """The configured ones, else the clients'."""
    return server.admin_keys or _client_keys(args)


def _check_used(name: str) -> None:
    option = name.replace("_", "-")
    if option in UNUSED or option.startswith(UNUSED_BEGINNINGS):
        hint = "put a proxy that ends TLS before the server" if "ssl" in option else "see server.host and server.port"
        raise ConfigError(f"server.extra.{name} has no effect, since StreamServe listens itself: {hint}")


def _refuse(message: str) -> None:
    raise ConfigError(f"server.extra: {message}")
