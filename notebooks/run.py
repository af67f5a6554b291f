"""Run the notebooks anew, and keep their pictures: `make notebooks`."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted(Path(__file__).parent.glob("*.ipynb"))


def execute(path: Path) -> NotebookNode:
    """Return a notebook as its cells make it, without what differs between two runs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    # what is printed arrives in pieces, and in more of them on a slow machine
    how = {"kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, timeout=600, **how).execute()
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for cell in notebook.cells:
        # progress and warnings are of the machine
        kept = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
        if cell.cell_type == "code":
            cell.update(outputs=kept, metadata={})
    return notebook


if __name__ == "__main__":
    for path in NOTEBOOKS:
        nbformat.write(execute(path), path)
