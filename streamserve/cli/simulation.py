"""`streamserve simulate`, `streamserve validate` and `streamserve calibrate`."""

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streamserve.cli.app import app, examples, parts
from streamserve.config import load


@app.command(
    epilog=examples(
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
        typer.Option(
            help="ROUTER, then +ORDER, +direct, +late or +own; default: the configured. hindsight:TRIES or "
            "hindsight:TRIES:p99|goodput searches for the best mean, p99 or goodput that routing could have had.",
            metavar="NAME,...",
        ),
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
    turns: Annotated[int, typer.Option(help="Of a conversation.", min=1)] = 4,
    pause: Annotated[float, typer.Option(help="Mean seconds between its turns.", min=0)] = 8.0,
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
    from streamserve.bench import report, simulated
    from streamserve.bench import simulate as study
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
            workloads=parts(workloads),
            lengths=lengths,
            length_scale=length_scale,
            multi_turn=multi_turn,
            turns=turns,
            pause=pause,
            slo_ttft=slo_ttft,
            slo_tpot=slo_tpot,
            seed=seed,
        ),
        routers=parts(routers) or (topology.router,),
        order=topology.scheduler.order,
        arrivals=arrivals or ("poisson",),
        loads=study.numbers("--loads", loads) if loads else (),
        rate=rate,
        requests=requests,
        seeds=seeds,
        announce_slo=announce_slo,
    )
    study.check(given)
    if out is not None:
        report.made(out)
    sent = plans(given.workload, study.encoder(topology.model) if tokenizer else None)
    # All that is loaded stays: the collector need not look through it again and again.
    gc.freeze()
    made = study.run(given, sent, lambda line: print(line, file=sys.stderr, flush=True))
    print(simulated.text(made))
    if out is not None and not study.keep(made, given, out):
        print("no plots: matplotlib is not installed", file=sys.stderr)


@app.command(
    epilog=examples(
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
        typer.Option(help="ROUTER, then +ORDER, +direct, +late or +own; default: the configured.", metavar="NAME,..."),
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
    drafts: Annotated[
        str,
        typer.Option(help="Of simulated requests: replayed from the live answers, or drawn.", metavar="replayed|drawn"),
    ] = "replayed",
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
        workloads=parts(workloads),
        routers=parts(routers) or (topology.router,),
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
        drafts=drafts,
    )
    compared, ranked = validation.run(given, topology, study.found(calibration, topology), print)
    print(fidelity.text(compared, ranked))


@app.command(
    epilog=examples(
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
