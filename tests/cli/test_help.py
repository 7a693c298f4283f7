"""``--help`` teaches, and answers at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_channels.cli import _COMMANDS, _parser
from lightning_channels.cli._arguments import parse


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom lightning_channels.cli import main\n"
        f"for command in [[], *([name] for name in {list(_COMMANDS)})]:\n"
        "    try:\n        main([*command, '--help'])\n    except SystemExit:\n        pass\n"
        "heavy = {'torch', 'hydra', 'lightning', 'yaml', 'omegaconf'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--with-init-args" in done.stdout
    assert "--objective RESOURCE" in done.stdout


def test_the_programs_help_names_all_commands(cli) -> None:
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    listed = out.partition("  COMMAND\n")[2].splitlines()
    assert [line.split()[0] for line in listed if line[4] != " "] == list(_COMMANDS)


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_commands_help(cli, command: str) -> None:
    """It says where the model comes from, what its exit codes are, and each example is a command line that parses."""
    code, out, err = cli(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: lightning-channels {command} [-h]" in out
    for text in ("a run's folder", "OVERRIDES are Hydra's", "exit codes: 0 done", "130 interrupted"):
        assert text in out
    examples = [line.split()[1:] for line in out.splitlines() if line.startswith(f"  lightning-channels {command} ")]
    assert len(examples) >= 3
    for example in examples:
        arguments = parse(_parser(), example)
        assert arguments.command == command
        assert arguments.config or arguments.checkpoint


@pytest.mark.parametrize("command", ["search", "eval"])
def test_what_validates_says_what_it_needs(cli, command: str) -> None:
    assert "module, a LightningModule, and datamodule (or data)" in cli(command, "--help")[1]
