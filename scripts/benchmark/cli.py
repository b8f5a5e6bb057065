"""Speed beside other servers: one command, one machine, the same weights.

  scripts/bench                 everything; hours (it says how long before it starts)
  scripts/bench --quick         two models, one picture, 16 clients and 1; about twelve minutes
  scripts/bench --engine        what the models alone can do, without HTTP
  scripts/bench --gpu           an NVIDIA GPU, without HTTP and behind it; about four minutes
  scripts/bench --sweep         the peers' best settings
  scripts/bench --against A     camserve and a peer, or another checkout's folder, loaded in turns
  scripts/bench --report A,B    tables and plot of earlier runs together, measuring nothing

Results: docs/benchmarks/NAME.json, NAME.md and NAME.png.
"""

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import environments, gpu, machine, processes, rounds, turns
from benchmark.cells import Cell, cells
from benchmark.contenders import CONTENDERS, PEERS
from benchmark.pictures import SIZES
from benchmark.places import MODELS, RESULTS, WORK
from benchmark.plot import as_plot
from benchmark.report import as_markdown, lines_of
from benchmark.servers import ServerFailed
from benchmark.sweep import sweep
from benchmark.weights import NAMES, make_models

_ALL: Mapping[str, Any] = {
    "peers": ",".join(CONTENDERS),
    "models": ",".join(NAMES),
    "what": "explain,predict",
    "pictures": ",".join(SIZES),
    "clients": "1,4,16,64",
    "open": "20,50,80,95,110",
    "rounds": 3,
    "seconds": 6.0,
    "http": "1,2,4,8,12",
    "precision": "fp16",
}
_QUICK: Mapping[str, Any] = {
    "models": "resnet50,mobilenet_v3_small",
    "what": "explain",
    "pictures": "0.24",
    "clients": "16,1",
    "open": "",
    "rounds": 1,
}
_HELP = {
    "peers": "servers, camserve's own among them",
    "models": "of " + ", ".join(NAMES),
    "what": "explain (an overlay), predict; heatmap (the map alone), which camserve has for itself",
    "pictures": "megapixels",
    "clients": "of closed loops; all with the usual picture, 16 with all pictures",
    "open": "open loops, in percent of the rate that 16 clients reach; empty for none",
    "rounds": "of all servers in turn",
    "seconds": "that each cell is measured",
    "http": "with --gpu: numbers of http processes",
    "precision": "with --gpu: that is served",
}
_WHATS = ("explain", "heatmap", "predict")
_START_S, _AROUND_S = 12, 8  # a server's start; warming up and draining, for each cell


def main() -> None:
    """Measure what is asked for, and write it down."""
    arguments = parse()
    if arguments.report:
        write(arguments.out, merged(arguments.name, arguments.out, arguments.report))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers must not be left behind
    make_models(MODELS, arguments.models)
    with processes.adopting_orphans():
        if arguments.sweep:
            run_sweep(arguments)
        elif arguments.gpu:
            run_gpu(arguments)
        elif arguments.against:
            run_in_turns(arguments)
        else:
            write(arguments.out, measured(arguments))


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """The content of a result file."""
    described = machine.describe()  # first: it tells what the load was before
    results = rounds.Results()
    peers = [] if arguments.engine else installed(arguments.peers, results.missing)
    plan = plan_of(arguments, peers)
    print(f"about {minutes(plan):.0f} minutes; {json.dumps(described)}", flush=True)
    content = {
        "name": arguments.name,
        "command": " ".join(["scripts/bench", *sys.argv[1:]]),
        "machine": described,
        "settings": {"rounds": plan.rounds, "seconds": plan.seconds},
        "peers": {name: environments.describe(name) for name in peers if name in PEERS},
        "engine": results.engine,
        "missing": results.missing,
        "rows": results.rows,
    }
    try:
        rounds.run(plan, results, lambda: save(arguments.out, content))
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept")
    return content


def run_gpu(arguments: argparse.Namespace) -> None:
    """The GPU's figures, saved after each."""
    plan = gpu.Plan(arguments.precision, arguments.http, arguments.what, arguments.seconds)
    command = " ".join(["scripts/bench", *sys.argv[1:]])
    for content in gpu.measured(arguments.name, command, plan):
        file = save(arguments.out, content)
    text = gpu.as_markdown(content)
    file.with_suffix(".md").write_text(text)
    print(text)


def run_in_turns(arguments: argparse.Namespace) -> None:
    """Two servers, in turns."""
    described = machine.describe()
    if arguments.against in PEERS:
        environments.make_base()
        environments.make_peer(arguments.against)
    plan = turns.Plan(
        other=arguments.against,
        models=arguments.models,
        cells=cells_of(arguments),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    content: dict[str, Any] = {
        "name": arguments.name,
        "command": " ".join(["scripts/bench", *sys.argv[1:]]),
        "machine": described,
        "settings": {"rounds": plan.rounds, "seconds": plan.seconds},
        "rows": [],
    }
    try:
        for pair in turns.measured(plan):
            content["rows"] += pair
            file = save(arguments.out, content)
            told = "  ".join(f"{row['rate']:8.2f}/s" for row in pair)
            print(f"  {pair[0]['model']}, {pair[0]['cell']:34} {told}", flush=True)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept")
    except ServerFailed as exc:
        sys.exit(str(exc))
    if content["rows"]:
        text = turns.as_markdown(content)
        file.with_suffix(".md").write_text(text)
        print(text)


def cells_of(arguments: argparse.Namespace) -> list[Cell]:
    return cells(arguments.what, arguments.pictures, arguments.clients, arguments.open)


def plan_of(arguments: argparse.Namespace, contenders: Sequence[str]) -> rounds.Plan:
    return rounds.Plan(
        contenders=contenders,
        models=arguments.models,
        cells=cells_of(arguments),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )


def minutes(plan: rounds.Plan) -> float:
    """About how long it takes."""
    starts = [len(group) for n in range(plan.rounds) for *_, group in plan.starts(n)]
    seconds = len(starts) * _START_S + sum(starts) * (plan.seconds + _AROUND_S)
    return (seconds + plan.rounds * len(plan.models) * rounds.ENGINE_S) / 60


def installed(names: Sequence[str], missing: dict[str, str]) -> list[str]:
    """Those whose environments can be made, in the order that was asked for; why others cannot."""
    if any(name in PEERS for name in names):
        environments.make_base()
    return [name for name in names if name not in PEERS or _can_install(name, missing)]


def _can_install(name: str, missing: dict[str, str]) -> bool:
    try:
        environments.make_peer(name)
    except environments.CannotInstall as exc:
        print(f"left out: {exc}")
        missing[name] = str(exc)
        return False
    return True


def run_sweep(arguments: argparse.Namespace) -> None:
    """Every peer's grid, and the best point of each on standard output."""
    peers = [name for name in installed(arguments.peers, {}) if name in PEERS]
    cell = Cell(arguments.what[0], arguments.pictures[0], arguments.clients[0])
    found = [
        point
        for peer in peers
        for model in arguments.models
        for point in sweep(peer, model, cell, arguments.seconds)
    ]
    (WORK / f"sweep-{arguments.name}.json").write_text(json.dumps(found, indent=1))
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for point in found:
        best.setdefault((point["peer"], point["model"]), point)
    for point in best.values():
        print(f"best: {point}")
    print(f"{cell.key}; {len(found)} points")


def merged(name: str, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Several result files as one; the first tells the machine."""
    parts = [json.loads((folder / f"{part}.json").read_text()) for part in names]
    if len({(part["machine"]["processor"], part["machine"]["cores"]) for part in parts}) > 1:
        sys.exit("these were measured on different machines: no table can hold them together")
    if len({part["settings"]["seconds"] for part in parts}) > 1:
        sys.exit("these were measured for different lengths of time")
    return {
        **parts[0],
        "name": name,
        "command": "; ".join(part["command"] for part in parts),
        "engine": [found for part in parts for found in part["engine"]],
        "peers": {k: v for part in parts for k, v in part["peers"].items()},
        "missing": {k: v for part in parts for k, v in part["missing"].items()},
        "rows": [row for part in parts for row in part["rows"]],
    }


def save(folder: Path, results: Mapping[str, Any]) -> Path:
    """The JSON file: all that the rest is made from."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{results['name']}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    return file


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """JSON, Markdown and the plot."""
    file, text = save(folder, results), as_markdown(results)
    file.with_suffix(".md").write_text(text)
    if results["rows"]:
        as_plot(lines_of(results)).save(file.with_suffix(".png"))
    print(text)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags; lists are taken apart, and their names checked."""
    parser = argparse.ArgumentParser(
        "scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_mutually_exclusive_group()
    for flag in ("quick", "engine", "gpu", "sweep"):
        kinds.add_argument(f"--{flag}", action="store_true")
    kinds.add_argument("--report", type=_words, metavar="NAMES")
    kinds.add_argument("--against", metavar="SERVER")
    parser.add_argument("--name", help="of the result files; full, quick, engine, … if absent")
    parser.add_argument("--out", type=Path, default=RESULTS, help="their folder")
    for name, value in _ALL.items():
        parser.add_argument(f"--{name}", type=type(value), help=f"{_HELP[name]} ({value})")
    found = parser.parse_args(argv)
    _complete(found, {**_ALL, **(_QUICK if found.quick or found.sweep else {})})
    allowed = {"peers": CONTENDERS, "models": NAMES, "pictures": SIZES, "what": _WHATS}
    for name, known in allowed.items():
        for word in getattr(found, name):
            if word not in known:
                parser.error(f"--{name}: {word!r} is none of {', '.join(known)}")
    if found.against and not turns.is_known(found.against):
        parser.error(f"--against: {found.against!r} is neither a server nor a checkout's folder")
    return found


def _complete(found: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    for name, value in defaults.items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    for name in ("peers", "models", "pictures", "what"):
        setattr(found, name, _words(getattr(found, name)))
    for name in ("clients", "open", "http"):
        setattr(found, name, tuple(int(word) for word in _words(getattr(found, name))))
    kinds = ("quick", "engine", "gpu", "sweep", "report", "against")
    found.name = found.name or next((kind for kind in kinds if getattr(found, kind)), "full")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
