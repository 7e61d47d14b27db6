"""`python -m eosfm_cli` is `eosfm`."""

import sys

from eosfm_cli.commands.app import main

if __name__ == "__main__":
    sys.exit(main())
