"""The verb: from a run to its page."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from batchnorm.data import Dataset
from batchnorm.errors import InputError, importing
from batchnorm.files import as_path, check_writable, is_there, json_ready, open_regular, write_atomically
from batchnorm.playground import Piece, pack, piece
from batchnorm.reporting.inside import sections_on_layers
from batchnorm.reporting.learning import section_on_learning
from batchnorm.reporting.mistakes import section_on_mistakes
from batchnorm.reporting.pieces import Section, Story
from batchnorm.reporting.predictions import Classified, Labelled, Valued, predict
from batchnorm.reporting.repeating import section_on_making
from batchnorm.reporting.subject import Subject, open_subject
from batchnorm.reporting.words import notices, summarize
from batchnorm.results import Result
from batchnorm.tables import TableRun, holds_table
from batchnorm.training import Run

_TEMPLATES = Path(__file__).parent / "templates"
REPORT = "report.html"  # in a run folder
_HEAD = 4096  # bytes of a page, among which the mark is
_MARK = b'<meta name="generator" content="batchnorm '


@dataclass(frozen=True)
class Report(Result):
    """A page that was written.

    Parameters
    ----------
    path : Path
        The file.
    summary, notices : list of str
        The sentences at its top.
    figures : list of Path
        Files of its figures, where they were asked for.
    """

    path: Path
    summary: list[str]
    notices: list[str]
    figures: list[Path]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        described: dict[str, Any] = json_ready(
            {
                "report": str(self.path),
                "summary": self.summary,
                "notices": self.notices,
                "figures": [str(path) for path in self.figures],
            }
        )
        return described

    def __str__(self) -> str:
        figures = f", and {len(self.figures)} figures into {self.figures[0].parent}" if self.figures else ""
        return f"wrote {self.path}{figures}"


def write_report(
    run: Run | TableRun | str | Path,
    dataset: Dataset | None = None,
    *,
    output: str | Path | None = None,
    figures: str | Path | None = None,
    examples: bool = True,
    weights: bool = True,
    data_dir: str | Path | None = None,
    network: nn.Module | None = None,
    show_progress: bool = False,
) -> Report:
    """Write one HTML file that shows a run, to be opened in any browser, without a network (extra ``report``).

    It tells in words what was trained and how good it is, and shows the course of the training, the worst mistakes,
    what happens inside of the layers, running against population statistics, and how to repeat the run. A run that was
    stopped or has diverged is shown as it was at its last checkpoint, on its validation part. The file holds examples
    of the data and the weights of the network unless they are left out; it holds no path of a file.

    Parameters
    ----------
    run : Run, TableRun, str or Path
        What `fit` or `load_run` returned, or a run folder.
    dataset : Dataset, optional
        What it was trained on. By default it is looked for where it was; without it the page leaves out, and says so,
        what needs it.
    output : str or Path, optional
        File to write, by default "report.html" in the run folder. An older page is replaced, and no other file.
    figures : str or Path, optional
        Folder, made if it is not there, for the page's figures as SVG files.
    examples : bool, default True
        Whether the page shows examples, and the true values in a scatter: they are your data.
    weights : bool, default True
        Whether the page of a network on images holds it, to be played with.
    data_dir : str or Path, optional
        Where the data are now.
    network : torch.nn.Module, optional
        Needed if the run did not train a `DenseNetwork` as its constructor builds it: its weights are replaced.
    show_progress : bool, default False
        Whether to show bars for long work.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If there is no such run, it was trained on other data or another network, or `output` is no page of ours.
    MissingPackageError
        Without matplotlib or Jinja2.

    Examples
    --------
    >>> import batchnorm as bn
    >>> dataset = bn.load_dataset("digits")
    >>> run = bn.fit(bn.DenseNetwork(64, (16,), 10), dataset, bn.TrainingConfig(epochs=1))
    >>> folder = getfixture("tmp_path")
    >>> bn.write_report(run, dataset, output=folder / "digits.html").path.name
    'digits.html'
    """
    subject = run if isinstance(run, Run | TableRun) else as_path("run", run)
    check_packages()
    target = _target(subject, output)
    folder = None if figures is None else as_path("figures", figures)
    place = None if data_dir is None else as_path("data_dir", data_dir)
    story, play = _told(
        subject, dataset, network, place, with_examples=examples, with_weights=weights, show=show_progress
    )
    sections, written = _drawn(story.sections, folder)
    write_atomically(target, _page(story, sections, play).encode("utf-8", "backslashreplace"))
    return Report(target, list(story.summary), list(story.notices), written)


def check_packages() -> None:
    """Raise a `MissingPackageError` where a page cannot be written; for before the work."""
    from batchnorm import figures, pages  # noqa: F401


def _told(
    run: Run | TableRun | Path,
    dataset: Dataset | None,
    network: nn.Module | None,
    data_dir: Path | None,
    *,
    with_examples: bool,
    with_weights: bool,
    show: bool,
) -> tuple[Story, Piece | None]:
    """Return what a page tells, and what there is to play with."""
    if isinstance(run, TableRun) or (isinstance(run, Path) and holds_table(run)):
        with importing("tables", "pages of tables need pyarrow, charset-normalizer and scikit-learn"):
            from batchnorm.reporting.tables import story_of_table

        if dataset is not None or network is not None:
            raise InputError("a run on a table knows its data and its network: leave out dataset and network")
        path = run.path if isinstance(run, TableRun) else run
        if path is None:
            raise InputError("the run has no folder, in which its page finds what it was: train with out=")
        return story_of_table(path, data_dir, with_examples=with_examples, show_progress=show), None
    subject = open_subject(run, dataset, network, data_dir)
    story, play = _story(subject, with_examples), _playground(subject, with_examples) if with_weights else None
    if isinstance(play, Section):
        first, *others = story.sections
        return replace(story, sections=[first, play, *others]), None
    return story, play


def _story(subject: Subject, with_examples: bool) -> Story:
    run = subject.run
    found: Classified | Labelled | Valued | None = None
    if subject.examples is not None and (run.history or subject.is_finished):
        found = predict(run.network, subject.examples)
    return Story(
        _title(subject),
        summarize(subject, found),
        [
            section_on_mistakes(subject, found, with_examples=with_examples),
            section_on_learning(run.task, run.history),
            *sections_on_layers(subject.inside),
            section_on_making(subject),
        ],
        notices(subject),
    )


def _title(subject: Subject) -> str:
    folder = "" if subject.run.path is None else subject.run.path.resolve().name
    name = "" if folder in ("", subject.data_name) else f": {folder}"
    return f"A training on {subject.data_name}{name}"


def _playground(subject: Subject, with_examples: bool) -> Piece | Section | None:
    """Return what to draw on, or a section that says why there is nothing, or None where inputs are no images."""
    if subject.signature is None or not (subject.is_finished or subject.run.history):
        return None
    try:
        pack(None, subject.signature)
    except InputError:
        return None
    run, training = subject.run, None if subject.data is None else subject.data.train
    try:
        document = pack(
            run.network, subject.signature, task=run.task, target_scale=run.target_scale, examples=training,
            hold_examples=with_examples,
        )  # fmt: skip
    except InputError as error:
        return Section("playground", "A place to play", [f"There is none on this page: {error}."])
    return piece(document)


def _target(run: Run | TableRun | Path, output: str | Path | None) -> Path:
    """Return the file to write, which is new or a page of ours."""
    if output is not None:
        target = as_path("output", output)
        if str(target) == "-":
            raise InputError("a page is a file, not written to standard output: name one, such as report.html")
    else:
        path = run if isinstance(run, Path) else run.path
        if path is None:
            raise InputError("the run has no folder to write a page into: give output=")
        if not path.is_dir():
            raise InputError(f"{path} is not a folder: name a run folder")
        target = path / REPORT
    check_writable(target)
    if is_there(target):
        with open_regular(target) as file:
            if _MARK not in file.read(_HEAD):
                raise InputError(f"{target} is no page that batchnorm has written: choose another name")
    return target


def _drawn(sections: Sequence[Section], folder: Path | None) -> tuple[list[dict[str, Any]], list[Path]]:
    """Return the sections as their template takes them, and the files of the figures, if they go into a folder."""
    from batchnorm.figures import inline_svg, save_figure, styled

    if folder is not None:
        _make_folder(folder)
    taken, written = list[dict[str, Any]](), list[Path]()
    with styled(), _garbage_left():
        for section in sections:
            shown = []
            for drawing in section.drawings:
                figure = drawing.draw()
                svg = inline_svg(figure, drawing.title, drawing.description)
                shown.append({"title": drawing.title, "caption": drawing.caption, "svg": svg})
                if folder is not None:
                    written.append(folder / f"{drawing.name}.svg")
                    save_figure(figure, written[-1])
            if not section.is_empty:
                taken.append({**vars(section), "drawings": shown})
    return taken, written


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Leave garbage in cycles to later: while it draws, Python would walk through all that torch holds, many times.

    That is a fifth of a page's time (benchmarks/looking.py), in which a drawing makes little of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made a folder: {error.strerror or error}") from error


def _page(story: Story, sections: Sequence[dict[str, Any]], play: Piece | None) -> str:
    from batchnorm.pages import render

    scripts = [] if play is None else [play.script]
    return render("report.html", _TEMPLATES, scripts=scripts, story=story, sections=sections, play=play)
