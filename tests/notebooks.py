"""Running the notebooks of examples/: in tests; and, as a program, to store each with what it then shows.

    python tests/notebooks.py

Outputs are those of a machine without MNIST and without a network, with one thread.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
SECONDS = 120  # a cell that takes longer hangs
_WARNINGS_ARE_ERRORS = """\
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=PendingDeprecationWarning, module="ipykernel")  # when it ends
"""
_NOWHERE = "http://127.0.0.1:9"  # where nobody listens
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(path):
    """Return a notebook as it is after it was run from top to bottom, in a process and a folder of its own.

    A warning ends it, as does an error.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_WARNINGS_ARE_ERRORS))
    with tempfile.TemporaryDirectory(prefix="nb") as folder:  # a short name: paths of sockets are
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BATCHNORM_")},
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _NOWHERE),
            "OMP_NUM_THREADS": "1",
            **dict.fromkeys(("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"), folder),
        }
        where = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=SECONDS, coalesce_streams=True, resources=where)
        manager = client.create_kernel_manager()
        manager.transport, manager.connection_file = "ipc", f"{folder}/k.json"  # no ports, which others may take
        # Without folders of others' kernels: ipykernel's own runs the Python that runs this.
        manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        client.execute(env=environment)
    del notebook.cells[0]
    return _without_traces(notebook)


def _without_traces(notebook):
    """Leave out when it was run, and on what."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.metadata.pop("execution", None)
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    return notebook


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if len(sys.argv) > 1 else sorted(EXAMPLES.glob("*.ipynb")):
        nbformat.write(executed(path), path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
