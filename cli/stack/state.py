"""What a supervisor says about itself in ``state.json``: read by status, down, and the next start."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from cli.files import write_private
from cli.stack.home import Home
from cli.stack.ports import Ports
from cli.stack.processes import Identity

_VERSION = 1


class Phase(StrEnum):
    """Where a stack is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRecord:
    """One child as last seen by its supervisor."""

    status: str
    identity: Identity | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything another process may need to know; no secret is in it."""

    stack_id: str
    phase: Phase
    supervisor: Identity
    socket_dir: Path
    ports: Ports
    message: str = ""
    children: dict[str, ChildRecord] = field(default_factory=dict)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.api}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.dashboard}"

    @property
    def serving_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.serving}"


def write(home: Home, state: State) -> None:
    """Save it whole."""
    record = asdict(state) | {"version": _VERSION, "socket_dir": str(state.socket_dir)}
    write_private(home.state_file, json.dumps(record, indent=2) + "\n")


def read(home: Home) -> State | None:
    """The last state saved; None when there is none, or it is not one of ours."""
    try:
        record = json.loads(home.state_file.read_text(encoding="utf-8"))
        if record["version"] != _VERSION:
            return None
        return State(
            stack_id=record["stack_id"],
            phase=Phase(record["phase"]),
            supervisor=Identity(**record["supervisor"]),
            socket_dir=Path(record["socket_dir"]),
            ports=Ports(**record["ports"]),
            message=record["message"],
            children={
                name: ChildRecord(
                    status=child["status"],
                    identity=Identity(**child["identity"]) if child["identity"] else None,
                    restarts=child["restarts"],
                )
                for name, child in record["children"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
