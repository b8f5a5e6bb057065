"""Where things lie."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".bench"  # not in git: environments, weights, logs
MODELS = WORK / "models"
LOGS = WORK / "logs"
PEERS = Path(__file__).parent / "peers"
RESULTS = ROOT / "docs" / "benchmarks"
