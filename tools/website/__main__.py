"""`python tools/website` builds the site."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from website import build  # noqa: E402

sys.exit(build.main())
