"""Files by their contents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestige import files
from vestige.errors import BadInput


def test_pipe_is_not_waited_for_to_be_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="is no regular file"):
        files.digest(tmp_path / "pipe")
