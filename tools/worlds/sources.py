"""Where drawings come from: packages of Debian and of npm, fetched by their ordinary clients and unpacked into a folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path


def debian(packages: Iterable[str], folder: Path) -> None:
    """Unpack Debian packages under `folder`, each in a folder of its own; what is there is left alone."""
    for package in packages:
        if (folder / package).is_dir():
            continue
        part = folder / f"{package}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=part, check=True, stderr=subprocess.DEVNULL)
        (archive,) = part.glob("*.deb")
        subprocess.run(["dpkg", "-x", archive.name, "."], cwd=part, check=True)
        (part / "version").write_text(archive.name.split("_")[1] + "\n")
        archive.unlink()
        part.rename(folder / package)


def npm(packages: Iterable[str], folder: Path) -> None:
    """Unpack packages of npm, given as `name@version`, under `folder`; what is there is left alone."""
    for package in packages:
        if (place := folder / flat(package)).is_dir():
            continue
        part = place.with_name(place.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=part, check=True, stdout=subprocess.DEVNULL)
        (archive,) = part.glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
        archive.unlink()
        part.rename(place)


def flat(package: str) -> str:
    """`@scope/name@version` as one folder's name."""
    return package.lstrip("@").replace("/", "-")


def python(package: str, folder: Path) -> None:
    """Install a Python package apart from the environment, and make it importable here."""
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), package]
        subprocess.run(command, check=True)
    sys.path.append(str(folder))
