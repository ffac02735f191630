"""The notebook docs/tour.ipynb, executed as it stands."""

from __future__ import annotations

import nbclient
import nbformat
import pytest


def _texts(cells):
    """Everything that the cells print, and what their results show, as text."""
    for cell in cells:
        for output in cell.get("outputs", ()):
            yield output.get("text", "") + str(output.get("data", {}))


def test_the_notebook_is_kept_without_outputs(repository):
    notebook = nbformat.read(repository / "docs" / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.slow
# jupyter_client names a function of zmq's that is on its way out.
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_the_notebook_runs(repository, tmp_path):
    notebook = nbformat.read(repository / "docs" / "tour.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = "\n".join(_texts(notebook.cells))
    assert "14 images" in shown
    assert "inliers of" in shown
    assert shown.count("best first") == 2
    assert "image/png" in shown
    assert "single-stage" in shown
    assert "two-stage" in shown
    assert (tmp_path / "tour" / "features" / "report.html").is_file()
