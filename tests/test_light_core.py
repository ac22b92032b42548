"""What is installed with the package, what needs an extra, and what is said where something is missing."""

import re
import subprocess
import sys
import tomllib

import pytest

from batchnorm import Dataset
from batchnorm.errors import BatchnormError, MissingPackageError, install_command
from conftest import REPOSITORY
from processes import run_afresh

CONFIGURATION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT, GROUPS = CONFIGURATION["project"], CONFIGURATION["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
TEXTS = [
    *(REPOSITORY / "src").rglob("*.py"), *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "benchmarks").glob("*.*"), *(REPOSITORY / "examples").glob("*.py"), REPOSITORY / ".ci" / "run",
]  # fmt: skip


def name(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def run(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)


def test_every_verb_of_the_toolkit_runs_with_torch_and_numpy_alone():
    done = run(REPOSITORY / "tests" / "light_core.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_hides_everything_else_and_tells_who_asked_for_it(tmp_path):
    packages = ["safetensors", "typer", "rich", "numba", "pooch", "requests", "mlxtend", "sklearn", "scipy", "pandas"]
    for package in packages:
        text = f"try:\n    import {package}\nexcept ModuleNotFoundError:\n    pass\n"
        (tmp_path / f"asking_for_{package}.py").write_text(text)
    code = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY / 'tests')!r}, {str(tmp_path)!r}]\n"
        "from light_core import hide_all_but, with_what_they_need\n"
        "asked = hide_all_but(*with_what_they_need('torch', 'numpy'))\n"
        f"for package in {packages}:\n"
        "    __import__(f'asking_for_{package}')\n"
        "    assert package not in sys.modules\n"
        "print(*asked, sep='\\n')"
    )
    done = run("-c", code)
    expected = [f"asking_for_{package} imports {package}" for package in packages]
    assert done.stdout.splitlines() == expected, done.stderr


def test_the_core_is_light():
    assert set(map(name, PROJECT["dependencies"])) == {"torch", "numpy", "safetensors", "typer", "rich"}
    assert set(EXTRAS) == {
        "all", "datasets", "fast", "images", "onnx", "report", "serve", "sklearn", "tables", "tensorboard",
    }  # fmt: skip
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"\w+", everything)) == {"batchnorm", *EXTRAS} - {"all"}


def test_every_extra_that_is_named_exists():
    said = [
        (path, extra)
        for path in TEXTS
        for group in re.findall(r"""(?:batchnorm|"\.)\[([\w,]+)\]""", path.read_text())
        for extra in group.split(",")
    ]
    assert {path.name for path, _ in said} >= {"README.md", "CONTRIBUTING.md", "performance.md"}
    used = [
        (path, extra)
        for path in TEXTS
        for extra in re.findall(r"""(?:install_command|importing)\(\s*"(\w+)\"""", path.read_text())
    ]
    assert {extra for _, extra in used} >= {"datasets", "sklearn"}
    assert not [(path, extra) for path, extra in said + used if extra not in EXTRAS]
    assert install_command("fast") == "pip install 'batchnorm[fast]'"
    groups = {group for path in TEXTS for group in re.findall(r"install.*--group (\w+)", path.read_text())}
    included = {entry["include-group"] for group in GROUPS.values() for entry in group if isinstance(entry, dict)}
    assert groups == {"test", "dev"}
    assert groups | included == set(GROUPS)


def test_a_missing_package_is_ours_to_report_and_pythons_to_catch():
    assert issubclass(MissingPackageError, BatchnormError)
    assert issubclass(MissingPackageError, ImportError)


def test_without_scikit_learn_a_split_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    message = r"^splitting a data set needs scikit-learn: pip install 'batchnorm\[datasets\]'$"
    with pytest.raises(MissingPackageError, match=message):
        Dataset.from_arrays([[1.0]] * 10, [0, 1] * 5)


@pytest.mark.parametrize("missing", [["typer"], ["rich"], ["typer", "rich", "safetensors"]], ids=", ".join)
def test_without_its_packages_the_command_says_so_in_one_line(missing):
    code = (
        "import sys; from batchnorm.__main__ import main\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"  # None: as if it were not installed
        "sys.argv = ['batchnorm', 'datasets']; main()"
    )
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"batchnorm: the command line needs {', '.join(missing)}: pip install batchnorm\n"


def test_data_sets_are_listed_without_what_downloads_or_ships_them(tmp_path):
    code = "import sys; from batchnorm.__main__ import main; sys.argv = ['batchnorm', 'datasets']; main()"
    missing = ["pooch", "requests", "mlxtend", "sklearn", "platformdirs", "numba"]
    printed, said = run_afresh(code, tmp_path, missing)
    assert said == ""
    assert printed.count("– pip install 'batchnorm[datasets]'") >= 4  # not of what the system has


def test_the_entry_point_is_what_is_tested_here():
    assert PROJECT["scripts"] == {"batchnorm": "batchnorm.__main__:main"}
