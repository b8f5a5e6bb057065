"""The command line of scripts/bench."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmark import environments, machine, processes, rounds
from benchmark.cells import cells
from benchmark.contenders import CONTENDERS, PEERS
from benchmark.pictures import SIZES
from benchmark.places import MODELS, RESULTS
from benchmark.weights import NAMES, make_models

_ALL = {
    "peers": ",".join(CONTENDERS),
    "models": ",".join(NAMES),
    "clients": "1,4,16,64",
    "pictures": ",".join(SIZES),
    "what": "explain,predict",
    "open": "20,50,80,95,110",
    "rounds": 3,
    "seconds": 6.0,
}
_QUICK = {
    "models": "resnet50,mobilenet_v3_small",
    "clients": "16,1",
    "pictures": "0.24",
    "what": "explain",
    "open": "",
    "rounds": 1,
}


def main() -> None:
    """Measure what is asked for, and write it down."""
    arguments = parse()
    processes.adopt_orphans()
    names = arguments.models
    make_models(MODELS, names)
    plan = rounds.Plan(
        contenders=ready(arguments.peers),
        models=names,
        cells=cells(arguments.what, arguments.pictures, arguments.clients, arguments.open),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    print(json.dumps(machine.describe()))
    results = rounds.run(plan)
    print(json.dumps(results.rows, indent=1))


def ready(names: Sequence[str]) -> list[str]:
    """Those whose environments can be made."""
    found = [name for name in names if name not in PEERS]
    peers = [name for name in names if name in PEERS]
    if peers:
        environments.make_base()
    for name in peers:
        try:
            environments.make_peer(name)
        except environments.CannotInstall as exc:
            print(f"left out: {exc}")
        else:
            found.append(name)
    return found


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags, each list checked."""
    parser = argparse.ArgumentParser("scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    for name, value in _ALL.items():
        parser.add_argument(f"--{name}", default=None, type=type(value))
    found = parser.parse_args(argv)
    defaults: dict[str, Any] = _ALL | (_QUICK if found.quick else {})
    for name, value in defaults.items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    for name in ("peers", "models", "pictures", "what"):
        setattr(found, name, tuple(getattr(found, name).split(",")))
    for name in ("clients", "open"):
        setattr(found, name, tuple(int(n) for n in getattr(found, name).split(",") if n))
    return found


if __name__ == "__main__":
    main()
