"""`python -m keepbest sync FOLDER`: bring in what trainings kept while the server was away."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from keepbest._spool import spools_in
from keepbest.client import Client
from keepbest.errors import KeepbestError


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return the exit code: 0, or 1 if something could not be brought in."""
    parser = argparse.ArgumentParser(prog="python -m keepbest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sync = commands.add_parser("sync", help="bring in what trainings kept in FOLDER while the server was away")
    sync.add_argument("folder", type=Path, metavar="FOLDER", help="where they saved; folders below it are searched too")
    # The command line calls it `--server`.
    sync.add_argument("--address", "--server", help="of the server; else KEEPBEST_ADDRESS, else http://127.0.0.1:7400")
    sync.add_argument(
        "--ca", type=Path, metavar="FILE", help="authorities trusted at an https address; else KEEPBEST_CA"
    )
    shown = "to show to a server that asks for one; else KEEPBEST_CLIENT_CERT"
    sync.add_argument("--client-cert", type=Path, metavar="FILE", help=f"certificate {shown}")
    sync.add_argument("--client-key", type=Path, metavar="FILE", help="its private key; else KEEPBEST_CLIENT_KEY")
    sync.add_argument(
        "--take-over", action="store_true", help="also of runs that are active in another attempt, which ends with that"
    )
    return _sync(parser.parse_args(arguments))


def _sync(arguments: argparse.Namespace) -> int:
    if not arguments.folder.exists():
        print(f"error: `{arguments.folder}` does not exist", file=sys.stderr)
        return 1
    spools = spools_in(arguments.folder)
    if not spools:
        print(f"nothing to sync in `{arguments.folder}`")
    failed = False
    try:
        client = Client(
            arguments.address, ca=arguments.ca, client_cert=arguments.client_cert, client_key=arguments.client_key
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with client:
        for spool in spools:
            try:
                for synced in client.sync(spool, take_over=arguments.take_over):
                    print(f"{synced.run}: {_count(synced.events, 'event')}, {_count(len(synced.versions), 'version')}")
                    for version in synced.versions:
                        print(f"  {version.name}")
                    for loss in synced.losses:
                        print(f"  {loss}")
            except (KeepbestError, OSError, ValueError) as error:
                print(f"error: {error}", file=sys.stderr)
                failed = True
    return int(failed)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


if __name__ == "__main__":
    sys.exit(main())
