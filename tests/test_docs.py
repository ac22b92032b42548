"""The documentation says what is so."""

import inspect
import pydoc
import re
import sys

import pytest

from batchnorm import BatchNormClassifier, BatchNormRegressor, toolkit
from batchnorm.estimator.inherited import Inherited
from batchnorm.toolkit.folding import REASONS
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "estimators.md").read_text()
BOTH = pytest.mark.parametrize("estimator_class", [BatchNormClassifier, BatchNormRegressor])


def documented(estimator_class, section, following):
    """Return name and type of each entry in a section of the class's docstring."""
    text = inspect.getdoc(estimator_class).split(f"{section}\n---")[1].split(f"{following}\n---")[0]
    return re.findall(r"^(\w[\w, ]*) : (.*)$", text, re.MULTILINE)


@BOTH
def test_every_parameter_is_documented_with_its_default(estimator_class):
    said = {}
    for names, kind in documented(estimator_class, "Parameters", "Attributes"):
        names, defaults = names.split(", "), re.search(r"default (.*)$", kind)[1]
        said.update(zip(names, [defaults] if len(names) == 1 else defaults.split(", "), strict=True))
    signature = inspect.signature(estimator_class).parameters
    assert list(said) == list(signature)
    for name, parameter in signature.items():
        default = parameter.default
        assert said[name] == (f'"{default}"' if isinstance(default, str) else repr(default)), name


@BOTH
def test_every_attribute_is_documented(estimator_class):
    kinds = documented(estimator_class, "Attributes", "Examples")
    said = {name for names, _ in kinds for name in names.split(", ")}
    fitted = estimator_class(epochs=1).fit([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1])
    public = {name for name in dir(fitted) if name.endswith("_") and not name.startswith("_")}
    assert public - said <= {"feature_names_in_"}
    assert said - public <= {"feature_names_in_"}


@BOTH
def test_every_public_method_is_documented(estimator_class):
    own = [
        method
        for owner in estimator_class.__mro__
        if owner.__module__.startswith("batchnorm") and owner is not Inherited
        for name, method in vars(owner).items()
        if inspect.isroutine(method) and not name.startswith("_")
    ]
    assert len(own) >= 5
    for method in own:
        assert "Parameters\n" in inspect.getdoc(method), method


@BOTH
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="it has a line for each parameter")
def test_help_can_be_read_at_one_sitting(estimator_class):
    assert len(pydoc.plain(pydoc.render_doc(estimator_class)).splitlines()) <= 300


def test_the_pages_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec("\n".join(blocks), {})
    assert float(capsys.readouterr().out) > 0.95
    assert (tmp_path / "digits.safetensors").is_file()


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_the_pages_files_exist(page):
    """As links of the repository's pages; tests/test_website.py has those of the site."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
        assert (page.parent / target).is_file(), target


TOOLKIT = (REPOSITORY / "docs" / "toolkit.md").read_text()


def test_the_toolkits_python_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```$", TOOLKIT, re.DOTALL | re.MULTILINE)
    exec(block, {})
    printed = capsys.readouterr().out
    assert "never-updated" in printed
    assert "\n()\n" in printed  # nothing is left to find
    assert "1: BatchNorm1d(8), 0 → 2" in printed
    assert "1 of 1 batch norms folded" in printed


def test_every_reason_to_keep_a_layer_is_documented():
    for reason, sentence in REASONS.items():
        assert f"| `{reason}` | {sentence} |" in TOOLKIT


def test_every_public_function_of_the_toolkit_is_documented():
    exported = {name: getattr(toolkit, name) for name in toolkit.__all__}
    assert sum(map(inspect.isfunction, exported.values())) > 10
    for name, value in exported.items():
        assert f"`{name}" in TOOLKIT, name
        assert not inspect.isfunction(value) or "Parameters\n" in inspect.getdoc(value), name


EXPORT = (REPOSITORY / "docs" / "export.md").read_text()


def test_the_exports_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```$", EXPORT, re.DOTALL | re.MULTILINE)
    exec(block, {})
    printed = capsys.readouterr().out
    (shown,) = re.findall(r"^```text\n(.*?)^```$", EXPORT, re.DOTALL | re.MULTILINE)
    assert [line.strip() for line in printed.splitlines()][1:] == [line.strip() for line in shown.splitlines()][1:]
