"""A hundred damaged run folders; tests/fuzz/run_folders.py takes as many as one likes."""

from fuzz.run_folders import fuzz


def test_damaged_folders_give_the_same_results_or_one_line(tmp_path):
    outcomes, problems = fuzz(tmp_path, count=120, seed=0)
    assert problems == []
    assert outcomes["refused"] > 60
    assert outcomes["same"] > 60
