"""Make the toy objective importable here, under the name the subprocesses run it by."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
