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
    from collections.abc import AsyncIterator

    from agents.recipe import Recipe
    from envs.live import Live
    from streamserve.doctor import Finding, Recommendation, Verdict
    from streamserve.machine import Machine
    from streamserve.protocols import Lane

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
        list[str] | None, typer.Option(help="A key that clients must send; repeatable.", envvar=_KEY_VARIABLE)
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
    chosen, reason = (config, "as asked") if config else _default_config()
    server = {"server.host": host, "server.port": port, "server.api_keys": api_key or None}
    source, mode = (None, None) if policy is None else _policy(policy)
    flags = {"model": model, "router": router, "policy.source": source, "policy.mode": mode, **server}
    overrides = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    loaded = load(chosen, [*(settings or ()), *overrides])
    _serve(loaded, f"Configuration {chosen}: {reason}", decision_log, tensorboard)


def _policy(text: str) -> tuple[str, str | None]:
    from streamserve.policy.mode import split

    return split(text)


def _serve(config: Config, headline: str, decision_log: Path | None, tensorboard: Path | None) -> None:
    from streamserve.api.server import run
    from streamserve.console import ConsoleStartup, log_lines

    console = Console()
    console.print(headline, highlight=False, markup=False, soft_wrap=True)
    with log_lines(console), ConsoleStartup(console, needs_key=bool(config.server.api_keys)) as startup:
        run(config, startup, decision_log, tensorboard)


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


@app.command(
    epilog=_examples(
        "streamserve simulate",
        "streamserve simulate --prompts DIR --routers flowguard,least_loaded+direct --loads 0.5,0.9",
        "streamserve simulate --lanes 64 --speeds 1,1,1,0.5 --arrivals gamma:5 --seeds 3 --out results",
        "streamserve simulate --trace trace.csv --length-scale 0.125 --rate 0.8",
    )
)
def simulate(
    config: Annotated[
        str, typer.Option(help="A name from `streamserve configs` or a YAML file.", metavar="NAME|FILE")
    ] = "cpu-pair",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; repeatable.", metavar="KEY=VALUE")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="What lanes are made from; default: the one shipped for the model.", metavar="NAME|FILE"),
    ] = None,
    lanes: Annotated[int | None, typer.Option(help="So many lanes, copies of the configured ones.", min=1)] = None,
    speeds: Annotated[
        str | None, typer.Option(help="Speeds of the lanes in turn, times the calibrated one.", metavar="X,...")
    ] = None,
    routers: Annotated[
        str | None,
        typer.Option(help="ROUTER, ROUTER+ORDER or ROUTER+direct; default: the configured.", metavar="NAME,..."),
    ] = None,
    arrivals: Annotated[
        list[str] | None,
        typer.Option(help="poisson, gamma:CV, mmpp:..., diurnal:... or trace:FILE; repeatable.", metavar="PROCESS"),
    ] = None,
    loads: Annotated[
        str | None, typer.Option(help="Shares of the simulated capacity; default: 0.5,0.8,0.95.", metavar="X,...")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second instead of --loads.")] = None,
    requests: Annotated[int | None, typer.Option(help="Of each run; default: 30 for each lane.", min=1)] = None,
    prompts: Annotated[Path | None, typer.Option(help="Folder of JSONL prompt sets.", metavar="DIR")] = None,
    workloads: Annotated[
        str | None, typer.Option(help="Only these of the folder, in this order.", metavar="NAME,...")
    ] = None,
    tokenizer: Annotated[
        bool, typer.Option(help="Tokenize prompts as the model does; without, 4 letters are a token.")
    ] = False,
    multi_turn: Annotated[bool, typer.Option("--multi-turn", help="String the prompts into conversations.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="CSV of arrival_s, prompt_tokens, output_tokens; replayed.", metavar="FILE")
    ] = None,
    lengths: Annotated[
        str, typer.Option(help="Made-up prompts: mean lengths of prompt and output.", metavar="N:N")
    ] = "128:100",
    length_scale: Annotated[float, typer.Option(help="Times output lengths, and prompts without text.")] = 1.0,
    slo_ttft: Annotated[float, typer.Option(help="Seconds, for goodput.")] = 3.0,
    slo_tpot: Annotated[float, typer.Option(help="Seconds, for goodput.")] = 0.1,
    announce_slo: Annotated[
        bool, typer.Option("--announce-slo", help="Requests carry their SLO; without, they are only judged by it.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Runs of each cell.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="The first of them.", min=0)] = 0,
    noise: Annotated[bool, typer.Option(help="Vary steps as measured ones did.")] = True,
    staleness: Annotated[float, typer.Option(help="Age of the lanes' signals, in seconds.")] = 0.0,
    fail: Annotated[
        list[str] | None, typer.Option(help="A lane that dies; repeatable.", metavar="LANE@SECONDS")
    ] = None,
    restart: Annotated[float, typer.Option(help="Seconds that a lane takes to start again.")] = 5.0,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, table and plots.", metavar="DIR")] = None,
) -> None:
    """Replay a workload or a trace over simulated lanes: table, JSON and plots, faster than it would happen."""
    from streamserve.bench import simulate as study
    from streamserve.bench import simulated
    from streamserve.bench.workloads import Workload, plans
    from streamserve.simulation.options import SimOptions

    topology = load(config, settings or ())
    topology = topology if lanes is None else study.replicated(topology, lanes)
    given = study.Study(
        config=topology,
        calibration=study.found(calibration, topology),
        options=SimOptions(
            seed=seed,
            noise=noise,
            speeds={} if speeds is None else study.speeds(speeds, topology),
            staleness_s=staleness,
            failures=study.failures(fail or ()),
            restart_s=restart,
        ),
        workload=Workload(
            trace=trace,
            prompts=prompts,
            workloads=_parts(workloads),
            lengths=lengths,
            length_scale=length_scale,
            multi_turn=multi_turn,
            slo_ttft=slo_ttft,
            slo_tpot=slo_tpot,
            seed=seed,
        ),
        routers=_parts(routers) or (topology.router,),
        order=topology.scheduler.order,
        arrivals=arrivals or ("poisson",),
        loads=study.numbers("--loads", loads) if loads else (),
        rate=rate,
        requests=requests,
        seeds=seeds,
        announce_slo=announce_slo,
    )
    study.check(given)
    sent = plans(given.workload, study.encoder(topology.model) if tokenizer else None)
    made = study.run(given, sent, lambda line: print(line, file=sys.stderr, flush=True))
    print(simulated.text(made))
    if out is not None and not study.keep(made, given, out):
        print("no plots: matplotlib is not installed", file=sys.stderr)


@app.command(
    epilog=_examples(
        "streamserve validate --prompts DIR --minutes 60",
        "streamserve validate --prompts DIR --routers flowguard,least_loaded,round_robin --loads 0.5,0.9 --repeats 3",
    )
)
def validate(
    prompts: Annotated[Path, typer.Option(help="Folder of JSONL prompt sets.", metavar="DIR")],
    workloads: Annotated[
        str | None, typer.Option(help="Only these of the folder, in this order.", metavar="NAME,...")
    ] = None,
    config: Annotated[
        str, typer.Option(help="A name from `streamserve configs` or a YAML file.", metavar="NAME|FILE")
    ] = "cpu-pair",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; repeatable.", metavar="KEY=VALUE")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="What lanes are made from; default: the one shipped for the model.", metavar="NAME|FILE"),
    ] = None,
    routers: Annotated[
        str | None,
        typer.Option(help="ROUTER, ROUTER+ORDER or ROUTER+direct; default: the configured.", metavar="NAME,..."),
    ] = None,
    arrivals: Annotated[
        list[str] | None,
        typer.Option(help="poisson, gamma:CV, mmpp:..., diurnal:... or trace:FILE; repeatable.", metavar="PROCESS"),
    ] = None,
    loads: Annotated[str, typer.Option(help="Shares of the live capacity.", metavar="X,...")] = "0.3,0.6,0.9",
    repeats: Annotated[int, typer.Option(help="Live runs of every plan; two or more tell the noise.", min=1)] = 2,
    sim_seeds: Annotated[int, typer.Option(help="Simulated runs of every plan.", min=1)] = 5,
    minutes: Annotated[float, typer.Option(help="For all live runs; sets their number of requests.")] = 60.0,
    requests: Annotated[int | None, typer.Option(help="Of each run, whatever time that takes.", min=1)] = None,
    capacity: Annotated[float | None, typer.Option(help="Requests per second, instead of measuring it.")] = None,
    length_scale: Annotated[float, typer.Option(help="Times the prompts' output lengths.")] = 1.0,
    multi_turn: Annotated[bool, typer.Option("--multi-turn", help="String the prompts into conversations.")] = False,
    seed: Annotated[int, typer.Option(help="Of the plans.", min=0)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for all runs, report and plots.", metavar="DIR")] = Path("validate"),
) -> None:
    """Run the same workload over live lanes and over simulated ones, and compare."""
    from streamserve.bench import fidelity
    from streamserve.bench import simulate as study
    from streamserve.bench import validate as validation

    topology = load(config, settings or ())
    given = validation.Validation(
        prompts,
        out,
        workloads=_parts(workloads),
        routers=_parts(routers) or (topology.router,),
        order=topology.scheduler.order,
        arrivals=arrivals or ("poisson",),
        loads=study.numbers("--loads", loads),
        repeats=repeats,
        sim_seeds=sim_seeds,
        minutes=minutes,
        requests=requests,
        capacity=capacity,
        length_scale=length_scale,
        multi_turn=multi_turn,
        seed=seed,
    )
    compared, ranked = validation.run(given, topology, study.found(calibration, topology), print)
    print(fidelity.text(compared, ranked))


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(each for each in (text or "").split(",") if each)


@app.command(
    epilog=_examples(
        "streamserve calibrate",
        "streamserve calibrate --config cpu-pair --prompts DIR --minutes 8 --out calibration-report",
    )
)
def calibrate(
    config: Annotated[
        str, typer.Option(help="The lanes, a name from `streamserve configs` or a YAML file.", metavar="NAME|FILE")
    ] = "cpu-pair",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; repeatable.", metavar="KEY=VALUE")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Folder of JSONL prompt sets, one a workload; default: made-up prompts.", metavar="DIR"),
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long to measure, once the lanes are up.")] = 8.0,
    out: Annotated[Path, typer.Option(help="Folder for the report, plots and logs.", metavar="DIR")] = Path(
        "calibration-report"
    ),
    name: Annotated[
        str | None, typer.Option(help="Of the calibration; default: the processor and the model.", metavar="NAME")
    ] = None,
) -> None:
    """Measure what lanes cost on this machine, and write the calibration that simulated lanes are made from."""
    from streamserve.bench.calibrate import Options, run

    console = Console()
    options = Options(load(config, settings or ()), config, minutes, out, name, prompts)
    path = run(options, console)
    line = f"{path}\n{out / 'report.md'}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command(
    epilog=_examples(
        "streamserve train",
        "streamserve train --config route --seed 3 --name route-3",
        "streamserve train --config my.yaml --total-timesteps 50000 --set env_kwargs.load=0.9",
        "streamserve train --resume route-3",
    )
)
def train(
    config: Annotated[
        str, typer.Option(help="A recipe: quick, route, serve, spec, or a YAML file.", metavar="NAME|FILE")
    ] = "quick",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; repeatable.", metavar="KEY=VALUE")
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Serve (pair and depth), Route (pair), or Spec (depth of lanes).", metavar="NAME")
    ] = None,
    plant: Annotated[str | None, typer.Option(help="What lanes are: sim or live.", metavar="NAME")] = None,
    total_timesteps: Annotated[
        int | None, typer.Option(help="Decisions to learn from; the recipe says how many otherwise.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, actions and arrivals.", min=0)] = 0,
    name: Annotated[str | None, typer.Option(help="Of the run and its folder.", metavar="NAME")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run; of the other options only --total-timesteps counts.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder of all runs.", metavar="DIR")] = Path("runs"),
) -> None:
    """Train a policy with PPO; Ctrl-C stops it so that it can be resumed."""
    from agents.installed import check

    check()
    from agents import train as training
    from agents.recipe import load as load_recipe

    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    if resume is not None:
        recipe = training.begun(resume, runs).recipe
        outcome = training.resume(resume, total_timesteps, say, runs, _live_lanes(recipe))
    else:
        flags = {"env": env, "plant": plant, "n_timesteps": total_timesteps}
        overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
        recipe = load_recipe(config, [*(settings or ()), *overrides])
        outcome = training.train(recipe, seed, name, say, runs, _live_lanes(recipe))
    folder = outcome.folder
    if not outcome.whole:
        say(f"stopped after {outcome.steps} steps; go on with streamserve train --resume {folder.name} --runs {runs}")
        raise typer.Exit(130)
    say(f"{outcome.steps} steps in {folder.path}; compare it with streamserve evaluate {folder.last}")


def _live_lanes(recipe: "Recipe") -> "dict[str, Live]":
    """What an environment over real lanes is given beside the recipe: nothing for simulated ones."""
    if recipe.plant == "sim":
        return {}
    from contextlib import asynccontextmanager

    from envs.live import Live
    from streamserve.bench import rig

    config = load(recipe.env_kwargs.get("config", "cpu-pair"))

    @asynccontextmanager
    async def lanes() -> "AsyncIterator[Sequence[Lane]]":
        async with rig.live({"train": config}, lambda lane, stage: print(f"{lane}: {stage}", file=sys.stderr)) as up:
            yield list(up.sets["train"].lanes.values())

    async def clean(up: "Sequence[Lane]") -> None:
        await rig.forget_prefixes({lane.id: lane for lane in up})

    return {"live": Live(lanes, rig.planned, clean=clean)}


@app.command(
    epilog=_examples(
        "streamserve evaluate runs/route-1/best",
        "streamserve evaluate runs/route-1/best runs/route-2/best --seeds 20 --out evaluation",
        'streamserve evaluate runs/route-1/best --scenarios "bursts,slow lane" --baselines random,cheapest',
    )
)
def evaluate(
    policies: Annotated[
        list[str], typer.Argument(help="Folders of policies, or names of shipped ones.", metavar="POLICY...")
    ],
    config: Annotated[
        str, typer.Option(help="The lanes, a name from `streamserve configs` or a YAML file.", metavar="NAME|FILE")
    ] = "cpu-pair",
    calibration: Annotated[
        str | None,
        typer.Option(help="What lanes are made from; default: the one shipped for the model.", metavar="NAME|FILE"),
    ] = None,
    scenarios: Annotated[str | None, typer.Option(help="Only these; default: all.", metavar="NAME,...")] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Compare these as well: random, cheapest.", metavar="NAME,...")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder of JSONL prompt sets, for scenarios of their texts.", metavar="DIR")
    ] = None,
    arrivals: Annotated[
        list[str] | None, typer.Option(help="Of those: gamma:CV, trace:FILE, ...; repeatable.", metavar="PROCESS")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Episodes of each policy in each scenario.", min=2)] = 10,
    requests: Annotated[int, typer.Option(help="Of each episode.", min=1)] = 256,
    slo_ttft: Annotated[float, typer.Option(help="Seconds, for SLO attainment.")] = 3.0,
    slo_tpot: Annotated[float, typer.Option(help="Seconds, for SLO attainment.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, report and pictures.", metavar="DIR")] = None,
    write_scores: Annotated[
        bool, typer.Option("--write-scores", help="Write the gains into the policy's card, for serve --policy auto.")
    ] = False,
) -> None:
    """Compare trained policies with the heuristic, in simulated scenarios that training never saw."""
    from agents.installed import check

    check()
    from agents import evaluate as evaluation
    from agents import report
    from streamserve.types import Slo

    if write_scores and len(policies) > 1:
        raise ConfigError("--write-scores writes one policy's card: evaluate the policies one by one")
    asked = evaluation.Asked(
        policies=policies,
        scenarios=_parts(scenarios),
        config=config,
        calibration=calibration,
        seeds=seeds,
        requests=requests,
        prompts=None if prompts is None else str(prompts),
        arrivals=arrivals or evaluation.Asked.arrivals,
        baselines=_parts(baselines),
        slo=Slo(slo_ttft, slo_tpot),
    )
    table = evaluation.evaluate(asked, lambda line: print(line, file=sys.stderr, flush=True))
    print(report.text(table))
    if out is not None:
        evaluation.keep(table, out)
    if write_scores:
        evaluation.score(policies[0], table)


@app.command(epilog=_examples("streamserve tensorboard", "streamserve tensorboard --logdir runs --port 6007"))
def tensorboard(
    logdir: Annotated[Path, typer.Option(help="The folder of the runs.", metavar="DIR")] = Path("runs"),
    port: Annotated[int, typer.Option(help="On 127.0.0.1.", min=0, max=65535)] = 6006,
) -> None:
    """Show training runs, and what servers wrote with --tensorboard, in TensorBoard."""
    from agents.installed import check

    check()
    from agents.board import board

    raise typer.Exit(board(logdir, port))


@app.command(epilog=_examples("streamserve configs", "streamserve serve --config unified"))
def configs() -> None:
    """List the configurations that ship with StreamServe."""
    width = max(map(len, names()))
    for name in names():
        first = (config_folder() / f"{name}.yaml").read_text().partition("\n")[0]
        Console().print(
            f"{name:{width}}  {first.removeprefix('#').strip()}", highlight=False, markup=False, soft_wrap=True
        )
