"""examples/mutable_channel_unit.ipynb runs, prints what is stored in it, and that is what the documents print."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
from typing import Any

import pytest
from lightning import LightningModule
from printed import CONVS, UNIT
from torch import nn

from lightning_channels import UNITS
from lightning_channels._config import examples_dir

NOTEBOOK = examples_dir() / "mutable_channel_unit.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def stored(cell: dict[str, Any]) -> str:
    return "".join(line for output in cell["outputs"] for line in output["text"])


def run(base: type) -> list[str]:
    """What each cell prints, run one after the other in one namespace, with models that inherit from ``base``."""
    UNITS.names()
    known, state = dict(UNITS._classes), random.getstate()
    UNITS._classes.pop("MyUnit", None)
    names: dict[str, Any] = {"__name__": "notebook", "Base": base}
    outputs = []
    try:
        for number, cell in enumerate(code_cells(), 1):
            source = "".join(cell["source"]).replace("Model(nn.Module):", "Model(Base):")
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(source, f"{NOTEBOOK.name}, cell {number}", "exec"), names)
            outputs.append(output.getvalue())
    finally:
        UNITS._classes = known
        random.setstate(state)
    assert issubclass(names["MyDynamicModel"], base)
    return outputs


@pytest.fixture(scope="module", params=[nn.Module, LightningModule])
def printed(request: pytest.FixtureRequest) -> list[str]:
    return run(request.param)


def test_the_outputs_in_the_notebook_are_those_of_a_run(printed: list[str]) -> None:
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert printed == [stored(cell) for cell in cells]


def test_it_prints_what_the_documents_print(printed: list[str]) -> None:
    blocks = iter(block for block in printed if block)
    assert next(blocks) == "This model has 4 MutableChannelUnit(SequentialMutableChannelUnit).\n"
    assert next(blocks) == UNIT + "\n"
    assert len(next(blocks).splitlines()) == 4
    assert next(blocks) == "The current choice of unit1 is 8.\n" + CONVS.format(active=8) + "\n"
    sampled = next(blocks)
    choice = re.match(r"We get a sampled choice ([1-8])\.\n", sampled)
    assert choice is not None
    assert sampled == choice.group() + CONVS.format(active=choice.group(1)) + "\n"
    assert next(blocks).startswith(f"({choice.group(1)}, 3, 3, 3) (16, {choice.group(1)}, 3, 3)\n")
    assert next(blocks) == "The model has 4 MutableChannelUnits.\n"
    by_config = next(blocks)
    assert by_config == UNIT + "\nSquentialMutableChannel(num_channels=8, activated_channels=3)\n"
    assert next(blocks) == "The model has 2 MutableChannelUnits.\n"
