"""Who may import whom: data flows one way, and help does not wait for heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import batchnorm
from batchnorm import toolkit
from processes import run_afresh

PACKAGE = Path(batchnorm.__file__).parent
# Each room, and which rooms it may use, from the ground up; everyone may use the ground. A room is a folder or a file.
# Of another room only what its face, the __init__, exports may be used.
GROUND = {
    "errors",
    "files",
    "functional",
    "config",
    "printing",
    "markup",
    "progress",
    "results",
    "scores",
    "lazy",
    "memory",
    "forking",
    "version",
}
ROOMS = {
    "kernels": set(),
    "data": set(),
    "pages": set(),
    "figures": set(),
    "toolkit.model": set(),
    "toolkit.structure": {"toolkit.model"},
    "toolkit.behaviors": {"toolkit.model"},
    "toolkit.statistics": {"toolkit.model", "toolkit.behaviors"},
    "toolkit.folding": {"toolkit.model", "toolkit.structure"},
    "toolkit.diagnosis": {"toolkit.model", "toolkit.behaviors", "toolkit.statistics"},
    "toolkit.conventions": set(),
    "toolkit.loading": {"toolkit.conventions", "toolkit.model"},
    "toolkit": {
        "toolkit.behaviors", "toolkit.conventions", "toolkit.diagnosis", "toolkit.folding", "toolkit.loading",
        "toolkit.statistics", "toolkit.structure",
    },
    "network_table": set(),
    "network": {"kernels", "network_table", "toolkit.model"},
    "evaluation": {"data", "network", "toolkit.model"},
    "losses": {"data", "kernels"},
    "dynamics": {"data", "kernels", "losses", "network", "toolkit.model"},
    "training.engines": {"kernels", "data", "losses", "network"},
    "playground": {"data", "network", "pages"},
    "training.runs": set(),
    "training": {
        "data", "dynamics", "evaluation", "kernels", "losses", "network", "toolkit.model", "toolkit.statistics",
        "training.engines", "training.runs",
    },
    "inputs": {"data"},
    "estimator": {
        "data", "dynamics", "evaluation", "inputs", "kernels", "losses", "network", "toolkit.model",
        "toolkit.statistics", "training", "training.engines",
    },
    "exporting": {"data", "inputs", "network", "toolkit", "toolkit.model", "toolkit.structure", "training"},
    "tables.files": set(),
    "tables": {"data", "estimator", "inputs", "tables.files", "training", "training.runs"},
    "serving": {"data", "pages", "playground", "tables", "training"},
    "reporting": {
        "data", "dynamics", "estimator", "evaluation", "figures", "network", "pages", "playground", "tables",
        "training", "training.runs",
    },
    "comparing.cells": {"data", "network", "training", "training.runs"},
    "comparing": {"comparing.cells", "data", "dynamics", "figures", "network", "pages", "training.runs"},
    "cli": {
        "comparing", "data", "evaluation", "exporting", "network", "reporting", "serving", "tables", "toolkit",
        "training", "training.runs",
    },
}  # fmt: skip
ON_THE_GROUND = {
    "files": {"errors"},
    "config": {"errors"},
    "memory": {"config", "errors"},
    "results": {"markup"},
    "markup": {"printing"},
    "printing": {"files"},
}
HEAVY = {
    "sklearn", "mlxtend", "pooch", "requests", "numba", "rich", "pyarrow", "charset_normalizer", "onnx", "onnxruntime",
    "onnxscript", "PIL", "starlette", "uvicorn", "jinja2", "tensorboard", "pandas", "markupsafe", "matplotlib",
}  # fmt: skip


def imports(path):
    """Yield (module, name or None, whether at module level) for every import in a file that runs."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module, alias.name, node in tree.body) for alias in node.names)


def room_of(module):
    """Return the room of a module, named without the package: the longest that it lies in."""
    return max((room for room in GROUND | set(ROOMS) if f"{module}.".startswith(f"{room}.")), key=len)


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name[0] != "_")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_flow(path):
    room = room_of(name_of(path))
    allowed = ON_THE_GROUND.get(room, set()) if room in GROUND else GROUND | ROOMS[room]
    for module, name, _ in imports(path):
        top, _, inner = module.partition(".")
        if top != "batchnorm":
            continue
        inner = inner or name
        used = room_of(inner)
        assert used == room or used in allowed, f"{room} uses {used}"
        if used != room:  # modules of kernels are its face
            assert inner in (used, f"{used}.{name}") or used == "kernels", f"{room} reaches into {used}: {inner}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    room = room_of(name_of(path))
    made_of = {
        "estimator": {"sklearn"}, "kernels": {"numba"}, "tables": {"pyarrow", "sklearn"},
        "tables.files": {"pyarrow"},
        "exporting": {"onnx", "onnxruntime"}, "serving": {"jinja2", "pyarrow", "starlette", "uvicorn"},
        "figures": {"markupsafe", "matplotlib"}, "pages": {"jinja2", "markupsafe"},
    }  # fmt: skip
    its_own = made_of.get(room, set())
    assert not [module for module, _, at_top in imports(path) if at_top and module.split(".")[0] in HEAVY - its_own]


def test_every_room_is_in_the_table_and_there_is_no_circle():
    assert {room_of(name_of(path)) for path in MODULES} == GROUND | set(ROOMS)
    above = set()
    for room, used in ROOMS.items():
        assert used <= above, f"{room} stands above {used - above}"
        above.add(room)


def test_the_formula_needs_torch_alone():
    assert {name.split(".")[0] for name, *_ in imports(PACKAGE / "functional.py")} == {"torch", "typing"}


def test_the_kernels_need_no_torch():
    for file in ("cpu.py", "elementary.py"):
        found = {name.split(".")[0] for name, *_ in imports(PACKAGE / "kernels" / file)}
        assert found <= {"numba", "numpy", "math", "collections", "contextlib", "typing", "batchnorm"}


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys; from batchnorm.cli import main\n"
        f"sys.argv = ['batchnorm', *{command!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"assert not ({HEAVY | {'torch', 'numpy', 'numba', 'safetensors'}!r} & set(sys.modules)), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_without_scikit_learn_the_estimators_say_what_is_missing(tmp_path):
    code = (
        "import batchnorm\n"
        "batchnorm.DenseNetwork(3, (2,), 2)\n"
        "try: batchnorm.BatchNormClassifier\n"
        "except ImportError as error: print(error)\n"
    )
    printed, _ = run_afresh(code, tmp_path, missing=["sklearn"])
    assert printed == "the estimators need scikit-learn: pip install 'batchnorm[sklearn]'\n"


def test_public_names_are_all_there():
    for name in batchnorm.__all__:
        assert getattr(batchnorm, name) is not None
    assert set(batchnorm.__all__) <= set(dir(batchnorm))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = batchnorm.nothing


def seen_by_type_checkers(room):
    tree = ast.parse((room / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.asname: node.module for node in block.body for alias in node.names}


def test_what_type_checkers_see_is_what_is_exported():
    assert seen_by_type_checkers(PACKAGE) == batchnorm._HOME
    assert seen_by_type_checkers(PACKAGE / "toolkit") == toolkit._HOME
