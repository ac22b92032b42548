"""The page of a comparison, and its pictures as files."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchnorm.comparing.drawing import Picture, draw, focused
from batchnorm.comparing.plan import ComparisonFolder, ComparisonPlan
from batchnorm.comparing.result import PAGE, Comparison
from batchnorm.comparing.variations import said
from batchnorm.comparing.words import Summary, begin, focus
from batchnorm.config import COMPARED, as_option
from batchnorm.data import Dataset, is_known
from batchnorm.figures import inline_svg, save_figure
from batchnorm.pages import render
from batchnorm.printing import without_folders

_FIGURES = "figures"


def write_page(plan: ComparisonPlan, comparison: Comparison, folder: ComparisonFolder) -> None:
    """Write the page of a comparison into its folder, and its pictures beside it."""
    pictures = list(draw(comparison.summary))
    figures = folder.path / _FIGURES
    figures.mkdir(exist_ok=True)
    files = {figures / f"{picture.name}.svg": picture.figure for picture in pictures}
    for left in set(figures.glob("*.svg")) - files.keys():  # drawn by another version
        left.unlink()
    for file, figure in files.items():
        save_figure(figure, file)
    folder.save(PAGE, _page(plan, comparison, pictures).encode())


def _page(plan: ComparisonPlan, comparison: Comparison, pictures: Sequence[Picture]) -> str:
    summary = comparison.summary
    sections = {picture.section for picture in pictures}
    return render(
        "comparison.html",
        Path(__file__).parent / "templates",
        title=f"{plan.dataset.name}: {' × '.join(name.replace('_', ' ') for name in plan.variations)}",
        headings=[
            (name, heading) for name, heading in _headings(summary).items() if name in {*sections, "seen", "made"}
        ],
        sentences=comparison.sentences,
        caption=_caption(summary),
        columns=comparison.columns,
        words=list(summary["variations"]),
        rows=comparison.rows,
        best=comparison.best_row,
        learns=[arm["learns"] for arm in summary["arms"]],
        threshold=f"{summary['threshold']:.4g}",
        chance=f"{summary['chance']:.4g}",
        highest=f"{summary['best']:.4g}",
        whose=_whose(plan.dataset),
        swept=_swept(summary),
        sections=sections,
        whom=_whom(summary),
        pictures=[_inlined(picture) for picture in pictures],
        data=without_folders(plan.dataset.summary),
        command=_command(plan),
        config=[(name, said(value)) for name, value in asdict(plan.config).items() if name not in plan.variations],
    )


def _inlined(picture: Picture) -> dict[str, Any]:
    return {
        "section": picture.section,
        "title": picture.title,
        "description": picture.description,
        "svg": inline_svg(picture.figure, picture.title, picture.description),
    }


def _caption(summary: Summary) -> str:
    n = len(summary["seeds"])
    return f"Each arm from {n} seeds: mean ± standard deviation" if n > 1 else "Each arm from one seed"


def _whose(dataset: Dataset) -> str:
    if dataset.task == "regression":
        return "is what always predicting the mean has"
    what = "class" if dataset.task == "classification" else "combination of labels"
    return f"is what always predicting the commonest {what} has"


def _headings(summary: Summary) -> dict[str, str]:
    return {
        "seen": "What is seen",
        "curves": "Curves",
        "sweep": begin(f"by {_swept(summary)}"),
        "gradients": "Gradients",
        "activations": "Activations",
        "ratios": "Size of the steps",
        "made": "How it was made",
    }


def _swept(summary: Summary) -> str:
    return "" if summary["sweep"] is None else summary["sweep"]["name"].replace("_", " ")


def _whom(summary: Summary) -> str:
    """Say which arms are looked into."""
    shown, alike = focused(summary), focus(summary)
    best = f", each at its best {_swept(summary)}" if summary["sweep"] else ""
    first = f", {len(shown)} of {len(alike)}" if len(alike) > len(shown) else ""
    names = "; ".join(arm["label"] or "the network" for arm in shown)
    return f"this page looks into the layers of these arms: {names}{best}{first}"


def _command(plan: ComparisonPlan) -> str | None:
    """Return what to type to make the same again; None where that does not suffice."""
    if plan.dataset.origin is not None or not is_known(plan.dataset.name):
        return None
    words = ["batchnorm", "compare", plan.dataset.name]
    for name, values in plan.variations.items():
        words += ["--vary", f"{name}={','.join(map(said, values))}"]
    usual = asdict(COMPARED)
    for name, value in asdict(plan.config).items():
        if value != usual[name] and name not in plan.variations:
            words += as_option(name, value)
    if plan.dataset.split_seed:
        words += ["--split-seed", str(plan.dataset.split_seed)]
    return shlex.join([*words, "--seeds", str(plan.n_seeds)])
