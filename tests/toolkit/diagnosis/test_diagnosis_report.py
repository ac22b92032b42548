"""A diagnosis shows what it found as text, as a table, as JSON and as HTML."""

import copy
import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

import batchnorm as bn
from batchnorm.printing import printable
from batchnorm.toolkit.diagnosis.report import Diagnosis
from batchnorm.toolkit.diagnosis.rules import Finding
from planted import cross_entropy, plant


def test_a_report_is_text_a_table_json_and_html():
    case = plant("never-updated", "dense", 0, 1)
    report = bn.diagnose(case.model, case.batches, loss=cross_entropy)
    text = str(report).splitlines()
    assert text[0].startswith("3 batch-norm layers: 1 error; loss ")
    assert text[1].startswith("error: 1.norm: never-updated: the running statistics are the initial mean 0 and var")
    assert text[2] == "    → batchnorm.recalibrate(model, batches)"
    content = json.loads(report.to_json())
    assert list(content) == ["findings", "layers", "gap", "unreached", "notes", "not_looked_at"]
    assert content["findings"][0]["cause"] == "never-updated"
    assert content["layers"][1]["share"] > 0.75
    assert content["gap"]["kind"] == "loss"

    console = Console(width=120, file=io.StringIO())
    console.print(report)
    table = console.file.getvalue()
    assert "1.norm" in table
    assert "variance off by (×)" in table

    html = report._repr_html_()
    assert ">1.norm</td>" in html
    assert html.count("<tr") == 4
    assert "<script" not in html


def test_names_cannot_break_out_of_the_html():
    case = plant("never-updated", "dense", 0, 1)
    report = case.diagnose()
    hostile = copy.copy(report)
    object.__setattr__(hostile, "unreached", ("<script>alert(1)</script>",))
    assert "<script>" not in hostile._repr_html_()


@pytest.mark.parametrize("name", ["[red]x[/red]", "\x1b[2Jx", "x\ny", "\u202ex", ":smile:", "[/]", "\x9bm"])
def test_names_are_shown_and_never_obeyed(name):
    model = nn.Sequential()
    model.add_module(name, nn.BatchNorm1d(4).eval())
    report = bn.diagnose(model.eval(), [torch.randn(32, 4) + 5 for _ in range(2)])
    remarked = copy.copy(report)
    object.__setattr__(remarked, "notes", (f"{name} was not looked at",))
    console = Console(width=200, file=io.StringIO(), emoji=False)
    console.print(remarked)
    for text in (console.file.getvalue(), str(remarked)):
        assert all(line.isprintable() for line in text.splitlines())
        assert text.count(printable(name)) >= 2
    assert report.findings[0].layer == name


def test_a_layer_is_shown_by_the_worst_that_was_found_in_it():
    report = plant("never-updated", "dense", 0, 1).diagnose()
    (error,) = report.findings
    warning = Finding(error.layer, "momentum", "warning", "a", "b")
    colours = []
    for findings in ((), (warning,), (warning, error)):
        shown = Diagnosis(findings, report.layers, report.gap, report.unreached, report.notes).__rich__()
        colours.append(shown.renderables[0].rows[1].style)
    assert colours == [None, "yellow", "red"]
