# SPDX-License-Identifier: Apache-2.0
"""The notebook in demo/ runs from its first cell to its last, and is made to be read."""

import json
import re
from itertools import pairwise

import pytest
from commands import ROOT

NOTEBOOK = ROOT / "demo/carafe_tutorial.ipynb"
INSTALL = "pip install --no-deps -r requirements/recipes.txt"


def test_text_comes_before_code_and_outputs_are_small():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for before, cell in pairwise(cells):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown"
            compile("".join(cell["source"]), "cell", "exec")
            assert len(cell["source"]) <= 15, "cells are short"
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 2
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    assert NOTEBOOK.stat().st_size < 250_000


@pytest.mark.needs(torch="2.10")  # exports
@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    nbclient, nbformat, _ = (
        pytest.importorskip(name, reason=f"{name} is missing: {INSTALL}")
        for name in ("nbclient", "nbformat", "ipykernel")
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    nearest, carafe = map(float, re.findall(r"(?:nearest|CARAFE): error (\S+)", printed))
    assert carafe < 0.75 * nearest
    steps, first, last = map(float, re.search(r"(\d+) steps, loss (\S+) -> (\S+)", printed).groups())
    assert steps == 8 and last < first
    assert float(re.search(r"largest difference (\S+)", printed)[1]) < 1e-5
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 2
