"""Which processes are alive: whoever holds reservations renews a lease, and reservations of the dead are settled by the living.

On one machine a process is known by its number and the moment it started, so a restart settles what a killed process left at once;
elsewhere its lease has to run out first. Leases compare the clocks of machines: those must agree to some seconds.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from ownship.store.schema import processes

LEASE = 30_000  # milliseconds
RENEW = 5_000


@dataclass(frozen=True)
class Process:
    """`host` names the machine since its last start and the view of process numbers; empty where that cannot be told."""

    id: int
    host: str
    pid: int
    started: int


def this() -> Process:
    pid = os.getpid()
    return Process(secrets.randbits(62), _host(), pid, _started(pid) or 0)


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()[:100]} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Clock ticks from the machine's start to the process's; None if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def renew(connection: sa.Connection, process: Process, moment: int) -> None:
    """Alive for another LEASE, whatever others thought meanwhile."""
    renewed = connection.execute(sa.update(processes).where(processes.c.id == process.id).values(lease=moment + LEASE))
    if not renewed.rowcount:
        connection.execute(sa.insert(processes).values(id=process.id, host=process.host, pid=process.pid, started=process.started,
                                                       lease=moment + LEASE))


def bury(connection: sa.Connection, me: Process, moment: int) -> None:
    """Forgets the processes that are dead: from here on their reservations belong to nobody."""
    others = connection.execute(sa.select(processes).where(processes.c.id != me.id)).all()
    here = _host()
    dead = [other.id for other in others
            if other.lease < moment or (here and other.host == here and _started(other.pid) != other.started)]
    if dead:
        connection.execute(sa.delete(processes).where(processes.c.id.in_(dead)))


def leave(connection: sa.Connection, process: Process) -> None:
    connection.execute(sa.delete(processes).where(processes.c.id == process.id))
