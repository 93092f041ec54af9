#!/usr/bin/env python3
"""Stop tasks and remember that they are down on purpose: the watchdog leaves them alone.

usage: stop.py NAME ... [--dry-run] [--json]

    $ stop.py trader -v
    trader: stopped, pid 812, by hand

It stays down over reboots, until restart.py NAME starts it. A task that was removed from
upkeep.toml while it ran can still be stopped.

Exit codes: 0 it is down; 2 usage or configuration; 3 refused, identity not proven; 4 another run
holds the task; 6 it cannot be stopped.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, control, outcome, record

EXAMPLES = """  stop.py trader            # end it, and let it stay down
  stop.py trader --dry-run  # which processes would be signalled?"""


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("names", nargs="+", metavar="NAME", help="tasks of upkeep.toml")
    return made


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    recorded = record.names(settings.state)
    cli.chosen_tasks(settings, [name for name in options.names if name not in recorded])
    names = list(dict.fromkeys(options.names))
    return outcome.by_hand(
        settings, names, options, lambda known: control.stop(known, options.dry_run)
    )


if __name__ == "__main__":
    raise SystemExit(main())
