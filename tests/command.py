"""The installed command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image


def vestige(*arguments: object, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-W", "ignore", "-m", "vestige", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check, cwd=cwd, env=environment, timeout=300)


def height(path: Path) -> int:
    with Image.open(path) as picture:
        return int(picture.height)
