"""The pages on symptoms show them, name the cause and cure it."""

import pytest
import torch
from torch import distributed

from conftest import REPOSITORY
from pages_that_run import are_same, run

HOWTO = REPOSITORY / "docs" / "howto"
CAUSES = {
    "accuracy-drops-after-weight-averaging": "other-statistics",
    "batches-from-several-sources": "batches-differ",
    "dropout-before-batch-norm": "dropout",
    "expected-more-than-1-value-per-channel": "single-element",
    "fine-tuning-with-small-batches": "tiny-batch",
    "frozen-batch-norm-still-updates": "inference-in-training",
    "good-in-train-bad-in-eval": "few-updates",
    "gradient-accumulation-with-batch-norm": "tiny-batch",
    "gradient-checkpointing-with-batch-norm": "updated-twice",
    "momentum-of-tensorflow-and-keras": "momentum",
    "nan-after-loading-a-checkpoint": "nan-statistics",
    "results-change-with-the-batch-size": "training-left-on",
    "running-var-is-negative": "negative-variance",
    "syncbatchnorm-expected-input-tensor-to-be-on-gpu": None,  # its statistics are right
}
PAGES = sorted(path for path in HOWTO.glob("*.md") if path.stem != "index")


@pytest.fixture(autouse=True)
def _leave_no_group():
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_prints_what_it_says_names_the_cause_and_cures_it(path):
    cause = CAUSES[path.stem]
    outcomes = [outcome for outcome in run(path.read_text()) if any(outcome)]
    for shown, printed in outcomes:
        assert are_same(shown, printed), printed
    reports = [printed for _, printed in outcomes if "batch-norm layer" in printed]
    assert cause is None or any(f" {cause}: " in report for report in reports[:-1])
    assert "nothing wrong was found" in reports[-1]


def test_numbers_may_be_off_by_what_a_processor_does_to_them_and_words_may_not():
    assert are_same("0.84 of 3 layers", "0.86 of 3 layers")
    assert not are_same("0.84 of 3 layers", "0.99 of 3 layers")
    assert not are_same("0.84 of 3 layers", "0.84 of 3 models")
    assert not are_same("loss nan", "loss 0.1")


def test_the_message_of_a_page_is_torchs():
    """So that a search for it finds the page."""
    page = (HOWTO / "expected-more-than-1-value-per-channel.md").read_text()
    with pytest.raises(ValueError, match="value per channel") as caught:
        torch.nn.BatchNorm1d(8)(torch.ones(1, 8))
    assert f"ValueError: {caught.value}\n" in page
    assert page.startswith(f"# {str(caught.value).partition(',')[0]}\n")


def test_every_page_stands_in_the_overview_and_in_the_table_above():
    overview = (HOWTO / "index.md").read_text()
    assert {path.stem for path in PAGES} == CAUSES.keys()
    for path in PAGES:
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        assert f"[{title}]({path.name})" in overview
