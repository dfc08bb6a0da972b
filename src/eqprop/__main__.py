"""``python -m eqprop``."""

import sys

from eqprop.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
