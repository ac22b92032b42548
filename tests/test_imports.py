"""Who may import whom: data flows one way, and help does not wait for heavy libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import batchnorm

PACKAGE = Path(batchnorm.__file__).parent
# Each part may import itself and these; what is not named, everyone may (errors, files).
ALLOWED = {
    "functional": set(),
    "elementary": set(),
    "kernels": {"elementary"},
    "toolkit": {"functional"},
    "data": set(),
    "evaluation": {"data", "toolkit", "training"},  # the network, whose loop evaluates
    "training": {"functional", "kernels", "data", "toolkit", "evaluation"},
    "progress": {"training"},
    "estimator": {"functional", "data", "toolkit", "training", "evaluation", "progress"},
    "models": set(),
    "cli": {"data", "training", "evaluation", "progress", "toolkit", "models"},
}
COMMON = {"errors", "files"}
HEAVY = {"sklearn", "mlxtend", "pooch", "requests"}


def imports(path):
    """Yield (module, whether at module level) for every import in a file that runs."""
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
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in tree.body


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_flow(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name, at_top in imports(path):
        top, *rest = name.split(".")
        if (
            top == "batchnorm"
            and rest
            and (PACKAGE / rest[0]).with_suffix(".py").exists() | (PACKAGE / rest[0]).is_dir()
        ):
            assert rest[0] in {part} | COMMON | ALLOWED.get(part, set()), f"{part} imports {name}"
        of_sklearn = part == "estimator" and top == "sklearn"  # its classes are scikit-learn's
        assert not (at_top and top in HEAVY and not of_sklearn), f"{name} is imported before it is used"


def test_every_part_is_in_the_table():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert parts == set(ALLOWED) | COMMON


def test_the_formula_needs_torch_alone():
    assert {name.split(".")[0] for name, _ in imports(PACKAGE / "functional.py")} == {"torch", "typing"}


def test_the_kernels_need_no_torch():
    for name in ("kernels.py", "elementary.py"):
        found = {name.split(".")[0] for name, _ in imports(PACKAGE / name)}
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


def test_without_scikit_learn_the_estimators_say_what_is_missing():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import batchnorm\n"
        "batchnorm.DenseNetwork(3, (2,), 2)\n"
        "try: batchnorm.BatchNormClassifier\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "the estimators need scikit-learn: pip install 'batchnorm[sklearn]'\n"


def test_public_names_are_all_there():
    for name in batchnorm.__all__:
        assert getattr(batchnorm, name) is not None
    assert set(batchnorm.__all__) <= set(dir(batchnorm))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = batchnorm.nothing


def test_what_type_checkers_see_is_what_is_exported():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen.pop("functional") == "batchnorm"
    assert batchnorm.functional.batch_norm
    assert {name: f"batchnorm.{home}" for name, home in batchnorm._HOME.items()} == seen
