"""Who used the processor: the time of whole process trees, from proc(5)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Processor seconds since the machine started."""

    kinds: Mapping[str, float]
    """of each tree, with what its ended and awaited children used; trees below it that are named themselves
    are not counted again"""
    busy: float
    """of all processes and all cores"""

    def since(self, earlier: Usage) -> Usage:
        """The difference."""
        kinds = {kind: used - earlier.kinds[kind] for kind, used in self.kinds.items()}
        return Usage(kinds=kinds, busy=self.busy - earlier.busy)


def usage(roots: Mapping[str, tuple[int, ...]]) -> Usage:
    """What the trees below these processes have used by now, by kind."""
    processes = _processes()
    named = {pid for pids in roots.values() for pid in pids}
    children: dict[int, list[int]] = defaultdict(list)
    for pid, (parent, _) in processes.items():
        children[parent].append(pid)

    def tree(pid: int) -> float:
        if pid not in processes:
            return 0.0
        return processes[pid][1] + sum(tree(child) for child in children[pid] if child not in named)

    return Usage(kinds={kind: sum(map(tree, pids)) for kind, pids in roots.items()}, busy=_busy())


def _processes() -> dict[int, tuple[int, float]]:
    """Parent and seconds of every process, by its number."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        # after the name: state, parent, …; utime, stime and those of awaited children are fields 14 to 17
        found[int(name)] = (int(fields[1]), sum(map(int, fields[11:15])) / _TICKS)
    return found


def _busy() -> float:
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _, _, irq, softirq, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS
