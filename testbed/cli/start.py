"""Where the process ``testbed`` begins: before anything is imported, Ctrl-C is told to end it without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Imports the command line and runs it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from testbed.cli.main import main

    main()
