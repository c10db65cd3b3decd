"""``python -m streamspec``."""

import sys

from streamspec.cli import main

if __name__ == "__main__":
    sys.exit(main())
