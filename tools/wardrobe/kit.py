"""Make importable what all worlds share, which lies in `tools/worlds`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
