"""``airflow standalone`` without its servers of logs: they listen on all interfaces, whatever is configured.

Nothing is lost by it: on one machine Airflow reads the logs where they are.
"""

from __future__ import annotations

import sys
from typing import Any

from airflow.cli.commands import standalone_command

_SERVES_LOGS = ("scheduler", "triggerer")


class _SubCommand(standalone_command.SubCommand):
    def __init__(self, parent: Any, name: str, command: list[str], env: dict[str, str]) -> None:
        words = [*command, "--skip-serve-logs"] if name in _SERVES_LOGS else command
        super().__init__(parent, name, words, env)


def main() -> None:
    from airflow.__main__ import main as airflow

    standalone_command.SubCommand = _SubCommand  # type: ignore[misc]
    sys.argv = ["airflow", "standalone"]
    airflow()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
