"""What a figure was measured on: the processor, its instructions, its caches, and the memory of a process."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

# Instructions that decide how fast matrices multiply, as Linux names them, and what people call them.
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
    """Architecture, cores, system and Python, in a line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def processor(cpuinfo: Path = CPUINFO) -> tuple[str, list[str]]:
    """Its name, and which of ``INSTRUCTIONS`` it has; the latter are known on Linux only."""
    fields = _fields(cpuinfo)
    flags = set(fields.get("flags", fields.get("Features", "")).split())  # x86, ARM
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, [flag for flag in INSTRUCTIONS if flag in flags]


def peak_memory() -> int | None:
    """Greatest resident size of this process so far in bytes, its mapped files included; None where nobody counts.

    Linux passes ``getrusage``'s figure on from the process that started this one; that of ``/proc`` is its own.
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
    """Bytes that this process may still take without anything being written out, or None where that is not known."""
    found = []
    if available := _fields(Path("/proc/meminfo")).get("MemAvailable"):
        found.append(1024 * int(available.split()[0]))
    group = Path("/sys/fs/cgroup")  # a container's own limit
    with suppress(OSError, ValueError):  # no group, or "max"
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found)) if found else None


def last_cache() -> int | None:
    """Bytes of the first core's last level of cache, or None where that is not known."""
    sizes = {}
    for level in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/level"):
        try:
            size = level.with_name("size").read_text().strip()
            sizes[int(level.read_text())] = int(size[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[size[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return sizes[max(sizes)] if sizes else None


def _fields(file: Path) -> dict[str, str]:
    """The first of each "name: value" line of one of the kernel's files."""
    found: dict[str, str] = {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found
