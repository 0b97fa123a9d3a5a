"""Let ``python -m omnisky`` do what the command ``omnisky`` does."""

import sys

from omnisky.cli import main

if __name__ == "__main__":
    sys.exit(main())
