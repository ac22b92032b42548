"""What an estimator shows: lines, a bar, and itself in a notebook."""

import io
import sys
from contextlib import redirect_stdout

from batchnorm import BatchNormClassifier
from estimator_cases import IRIS, SMALL


def test_verbose_prints_a_line_per_epoch_without_a_terminal():
    said = io.StringIO()
    with redirect_stdout(said):
        classifier = BatchNormClassifier(**SMALL, verbose=1, early_stopping=True).fit(*IRIS)
    lines = said.getvalue().splitlines()
    assert lines[0] == f"Iteration 1, loss = {classifier.loss_curve_[0]:.8f}"
    assert lines[-1] == f"Validation score: {classifier.validation_scores_[-1]:.6f}"
    assert len(lines) == 20


def test_verbose_shows_a_bar_at_a_terminal(monkeypatch):
    from batchnorm.training import monitor

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bars = []

    class Recording(monitor.ProgressMonitor):
        def step(self, epoch, step, loss):
            super().step(epoch, step, loss)
            bars.append(self._progress is not None)

    monkeypatch.setattr(monitor, "ProgressMonitor", Recording)
    BatchNormClassifier(**SMALL, verbose=True).fit(*IRIS)
    assert len(bars) == 50
    assert all(bars)


def test_it_shows_itself_in_a_notebook():
    X, y = IRIS
    classifier = BatchNormClassifier(**SMALL, early_stopping=True)
    assert "polyline" not in classifier._repr_html_()
    page = classifier.fit(X, y)._repr_html_()
    assert "4 → 8 → 3, 75 parameters, 10 epochs, loss " in page
    assert "best validation score" in page
    points = page.split('points="')[1].split('"')[0].split()
    assert len(points) == 10
    assert points[0].startswith("0.0,")
    assert points[-1].startswith("240.0,")
    assert "4 → 8 → 3, 75 parameters" in classifier._repr_mimebundle_()["text/html"]
    one = BatchNormClassifier(**SMALL | {"epochs": 1}).fit(X, y)._repr_html_()
    assert ", 1 epoch, " in one
    assert "polyline" not in one
