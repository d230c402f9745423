"""The time and the memory of a call."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def measured(work: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """Measure the CPU seconds of a call, and by how many MB its highest memory exceeds that before it."""
    with suppress(OSError):  # the highest memory so far is forgotten where Linux allows it
        Path("/proc/self/clear_refs").write_text("5")
    memory = megabytes("VmRSS")
    started = time.process_time()
    result = work()
    seconds = time.process_time() - started
    return result, {"seconds": seconds, "memory": megabytes("VmHWM") - memory}


def megabytes(name: str) -> float:
    """Read an entry of the memory of this process, in MB; NaN where there is none, as on other systems than Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return float("nan")
