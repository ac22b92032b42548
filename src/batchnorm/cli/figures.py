"""What `train` and `evaluate` print of a network's figures."""

from typing import TYPE_CHECKING, Any

from batchnorm.cli.app import print_confusion
from batchnorm.printing import printable_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchnorm.evaluation import AnyEvaluation


def print_summary(summary: dict[str, Any]) -> None:
    """Print mean ± standard deviation over seeds, in the tutorial's lines."""

    def show(spread: dict[str, Any]) -> str:
        return "–" if spread["mean"] is None else f"{spread['mean']:.4f} ± {spread['sd']:.4f}"

    test = {kind: {"accuracy": spread} for kind, spread in summary.get("test_accuracy", {}).items()} or summary["test"]
    measure, name = ("accuracy", "acc") if "accuracy" in test["running"] else ("r2", "R²")
    print(f"mean ± standard deviation over {len(summary['seeds'])} seeds")
    for row in summary["evaluations"]:
        train, validation = show(row[f"train_{measure}"]), show(row[f"validation_{measure}"])
        print(f"{row['epoch']} train {name}: {train} val {name}: {validation}")
    if "population" in test:
        print(f"Test {name} with population statistics: {show(test['population'][measure])}")
    print(f"Test {name}: {show(test['running'][measure])}")


def print_evaluations(evaluations: "dict[str, AnyEvaluation]", split: str, class_names: "Sequence[str]") -> None:
    """Print how good a network is on a part of its data, with both kinds of statistics."""
    from batchnorm.evaluation import Evaluation
    from batchnorm.scores import score_lines

    for kind, what in (("population", "population statistics"), ("running", "running averages")):
        if kind not in evaluations:
            continue
        evaluation = evaluations[kind]
        if isinstance(evaluation, Evaluation):
            print(f"{split} acc: {evaluation.accuracy:.6g} loss: {evaluation.loss:.4g} with {what}")
        else:
            lines = "\n".join(score_lines(evaluation.figures, class_names, split))
            print(printable_lines(f"{lines}\n  loss {evaluation.loss:.4g}, with {what}"))
    if isinstance(running := evaluations["running"], Evaluation):
        print_confusion(running.confusion.tolist(), class_names, "with running averages")
