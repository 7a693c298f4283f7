"""Environments of the peers: each has its own, which sees the packages of this one, so that torch is the same build."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT", "PEERS", "Peer", "python_of"]

DEFAULT = Path(__file__).resolve().parents[1] / ".venv-peers"

_SHARED = ("torch", "torchvision", "numpy")  # what a peer must not replace


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool that is measured for comparison.

    Attributes:
        package: Its name in the package index.
        version: The one that is installed.
        dependencies: Whether to install what it asks for; else it comes alone.
        undeclared: What it imports without asking for it.
    """

    package: str
    version: str
    dependencies: bool = True
    undeclared: tuple[str, ...] = ()


PEERS = {
    "torch-pruning": Peer("torch-pruning", "1.6.1", dependencies=False),
    "modelopt": Peer("nvidia-modelopt", "0.47.0", undeclared=("requests",)),
}


def python_of(peer: Peer, folder: Path = DEFAULT) -> Path:
    """The interpreter of a peer's environment, which is made if it isn't there (with pip, from the package index).

    Raises:
        SystemExit: If the peer can't be installed.
    """
    home = folder.resolve() / f"{peer.package}-{peer.version}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = home / "installed"
    if done.exists():
        return python
    print(f"installing {peer.package} {peer.version} into {home}", flush=True)
    venv.create(home, with_pip=True, clear=True)
    own = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    lines = [f"import site; site.addsitedir({path!r})" for path in sorted(shared)]
    Path(own, "shared.pth").write_text("\n".join(lines) + "\n")
    constraints = home / "constraints.txt"
    constraints.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in _SHARED))
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", constraints, f"{peer.package}=={peer.version}", *peer.undeclared]
    if not peer.dependencies:
        command.append("--no-deps")
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{peer.package} {peer.version} can't be installed for Python {sys.version.split()[0]}")
    done.touch()
    return python
