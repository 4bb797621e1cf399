"""Properties of the machine: processor, instruction sets and caches; and the memory usage of a process."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

# Instruction sets that determine the speed of matrix multiplication: Linux's name and the common name.
INSTRUCTIONS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx_vnni": "vnni",
    "avx512_vnni": "vnni",
    "amx_tile": "amx",
    "amx_int8": "amx",
    "amx_bf16": "amx",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
}
CPUINFO = Path("/proc/cpuinfo")


def machine() -> str:
    """Return a line with architecture, number of cores, operating system and Python version."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def processor(cpuinfo: Path = CPUINFO) -> tuple[str, list[str]]:
    """Return the name of the processor, and those of ``INSTRUCTIONS`` that it has, which are known on Linux only."""
    fields = _fields(cpuinfo)
    flags = set(fields.get("flags", fields.get("Features", "")).split())  # x86, ARM
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in INSTRUCTIONS if flag in flags]


def peak_memory() -> int | None:
    """Return the peak resident set size of this process in bytes, with mapped files; None if it is not available.

    On Linux, ``getrusage`` includes the peak of the process that started this one, so ``/proc`` is read instead.
    """
    own = _fields(Path("/proc/self/status")).get("VmHWM")
    if own:
        return 1024 * int(own.split()[0])
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def free_memory() -> int | None:
    """Return the number of bytes that this process can still allocate without swapping, or None if it is unknown."""
    found = []
    if available := _fields(Path("/proc/meminfo")).get("MemAvailable"):
        found.append(1024 * int(available.split()[0]))
    group = Path("/sys/fs/cgroup")  # the limit of a container
    with suppress(OSError, ValueError):  # no control group, or no limit ("max")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found)) if found else None


def last_cache() -> int | None:
    """Return the size of the first core's last-level cache in bytes, or None if it is unknown."""
    sizes = {}
    for level in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/level"):
        try:
            size = level.with_name("size").read_text().strip()
            sizes[int(level.read_text())] = int(size[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[size[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return sizes[max(sizes)] if sizes else None


def _fields(file: Path) -> dict[str, str]:
    """Return the "name: value" lines of a file of the kernel as a dictionary, with the first value of each name."""
    found: dict[str, str] = {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found
