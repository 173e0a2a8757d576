"""What processes listen on, as the kernel has it (``/proc``, so Linux alone)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from pathlib import Path

LISTENING = "0A"


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, and these in turn, that are there."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(parent), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def listening(pids: Iterable[int]) -> set[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Addresses and ports of TCP on which any of the processes listens."""
    inodes = set()
    for pid in pids:
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except FileNotFoundError:
            continue
        for descriptor in descriptors:
            try:
                inodes.add(str(descriptor.readlink()))
            except FileNotFoundError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and f"socket:[{inode}]" in inodes:
                address, _, port = local.partition(":")
                # 32-bit words in the machine's byte order, whose bytes are the network's.
                words = [int(address[place : place + 8], 16) for place in range(0, len(address), 8)]
                found.add((ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)), int(port, 16)))
    return found
