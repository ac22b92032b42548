"""What docs/images.md shows runs."""

import re
import shlex

import pandas as pd
from PIL import Image

from conftest import REPOSITORY
from image_folders import coloured

PAGE = (REPOSITORY / "docs" / "images.md").read_text()


def test_its_commands_and_its_python_run(command, tmp_path):
    coloured(tmp_path / "flowers", n=30)
    (tmp_path / "new").mkdir()
    Image.new("RGB", (50, 40), "red").save(tmp_path / "new" / "1.jpg")
    words = re.findall(r"^batchnorm (train flowers|(?:predict|export) .*)", PAGE, re.MULTILINE)
    assert [line.split()[0] for line in words] == ["train", "predict", "export"]
    for line in words:
        assert command(*shlex.split(line))[0] == 0
    (row,) = pd.read_csv("new.csv").to_dict("records")
    assert row["file"] == "new/1.jpg"
    loading, predicting = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names = {}
    exec(loading.replace(", image_size=32", "") + predicting.replace("run.predict(", "found = run.predict("), names)
    assert names["found"].tolist() == [row["prediction"]]
