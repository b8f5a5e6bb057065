"""The peers' environments: torch once, for all of them, and each peer's own packages beside it."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark.places import PEERS, WORK

_SHARED = ("torch", "torchvision", "numpy", "pillow", "safetensors")
_TUNING = re.compile(r"common\.Tuning\((.*?)\)\)")


class CannotInstall(Exception):
    """A peer's packages are not to be had here; the message is pip's."""


def make_base() -> None:
    """PyTorch and what goes with it, in the versions that camserve runs with."""
    wanted = [f"{name}=={version(name).partition('+')[0]}" for name in _SHARED]
    _make(WORK / "base", wanted, "\n".join(wanted))


def make_peer(name: str) -> None:
    """A peer's packages; torch is found in the base, by a path file."""
    requirements = PEERS / name / "requirements.txt"
    folder = WORK / name
    _venv(folder)
    (_site_packages(folder) / "base.pth").write_text(f"{_site_packages(WORK / 'base')}\n")
    _make(folder, ["--requirement", str(requirements)], requirements.read_text())


def describe(name: str) -> dict[str, Any]:
    """What a peer is named for, in which versions, and its settings."""
    requirements = (PEERS / name / "requirements.txt").read_text()
    tuning = _TUNING.search((PEERS / name / "server.py").read_text())
    return {
        "versions": requirements.split("\n\n")[0].splitlines(),  # those before the first gap
        "tuning": tuning[1] if tuning else "",
    }


def _make(folder: Path, arguments: list[str], wanted: str) -> None:
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing into {folder.name} …", flush=True)
    _venv(folder)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise CannotInstall(f"{folder.name}: {done.stderr.strip()[-500:]}")
    stamp.write_text(wanted)


def _venv(folder: Path) -> None:
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)


def _site_packages(folder: Path) -> Path:
    return next((folder / "lib").glob("python3*")) / "site-packages"
