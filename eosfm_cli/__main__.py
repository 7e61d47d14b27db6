"""Where the program starts; `python -m eosfm_cli` is `eosfm`."""

import signal
import sys


def run() -> int:
    """Run `eosfm` on the words of the command line, and return its exit code."""
    # Ctrl-C while modules are imported: end, and say nothing. The program listens itself later.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from eosfm_cli.commands.app import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
