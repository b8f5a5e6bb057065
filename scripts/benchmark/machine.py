"""The machine that figures belong to."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_TOLD = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile")


def describe() -> dict[str, object]:
    """Processor, cores, memory, the flags that matter to torch, versions, and the load now."""
    info = _cpu_info()
    flags = set(info.get("flags", "").split())
    return {
        "processor": info.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in _TOLD if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "pillow": version("pillow"),
        "load_average": os.getloadavg()[0],
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _cpu_info() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    fields = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in fields}
