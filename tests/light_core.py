"""Every verb of the toolkit, where of all that is installed torch, numpy and what these need can be imported.

``.ci/run`` runs it where nothing else is installed; tests/test_light_core.py where everything is.
"""

import json
import re
import sys
import tempfile
from importlib import metadata
from importlib.machinery import PathFinder


def hide_all_but(*distributions):
    """Hide all packages but these, as if they were not installed; return a list that fills with what asks for them."""
    hidden = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not set(distributions) & set(map(canonical, owners))
        and module not in sys.modules  # as Python's own start has
    }
    asked = []
    find_spec = PathFinder.find_spec

    def find_what_stays(name, path=None, target=None):
        if name.partition(".")[0] not in hidden:
            return find_spec(name, path, target)
        asked.append(f"{importer()} imports {name}")
        return None

    PathFinder.find_spec = find_what_stays
    return asked


def with_what_they_need(*distributions):
    """Return the names of the installed packages among these, and of all that they need."""
    found, names = set(), list(distributions)
    while names:
        name = canonical(names.pop())
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # what is needed on other platforms
            continue
        found.add(name)
        names += [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]
    return found


def canonical(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def importer():
    """Return the name of the module whose import is being looked for."""
    frame = sys._getframe(2)
    while "importlib" in frame.f_globals["__name__"]:
        frame = frame.f_back
    return frame.f_globals["__name__"]


def run_every_verb():
    """Find, diagnose, recalibrate, fold, export, look inside, freeze, synchronise, convert: once each, and back."""
    import numpy as np
    import torch
    from torch import nn

    import batchnorm as bn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    batches = [torch.randn(64, 4) + 5 for _ in range(3)]

    (site,) = bn.find_sites(model, batches)
    assert "BatchNorm1d(8)" in str(site)

    report = bn.diagnose(model, batches)
    assert "never-updated" in str(report)
    assert "never-updated" in report.to_html()
    assert "never-updated" in report._repr_html_()
    assert json.loads(report.to_json())["findings"]

    assert str(bn.recalibrate(model, batches))
    assert not bn.diagnose(model, batches).findings

    lean = bn.fold(model)
    assert "1 of 1" in str(lean.folding)
    torch.testing.assert_close(lean(batches[0]), model(batches[0]))
    with tempfile.TemporaryDirectory() as folder:
        assert bn.export(model, f"{folder}/model.pt2", "torch-export").size

    hidden, _ = bn.observe_layers(model, batches[0], torch.arange(64) % 2)
    assert (hidden["norm"], hidden["activation"]) == ("1", "ReLU")

    model.train()
    with bn.freeze(model):
        assert not model[1].training
    assert model[1].training
    assert list(bn.freeze(model).names) == ["1"]
    assert list(bn.unfreeze(model)) == ["1"]
    assert list(bn.synchronize(model)) == ["1"]
    model(batches[0]).sum().backward()
    assert list(bn.unsynchronize(model)) == ["1"]
    assert type(model[1]) is nn.BatchNorm1d

    bare = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False))
    assert list(bn.track_statistics(bare)) == ["0"]

    ones = np.ones(8, np.float32)
    bn.load_keras(model[1], [ones, 2 * ones, 3 * ones, 4 * ones])
    bn.load_flax(model[1], {"scale": ones, "bias": 2 * ones}, {"mean": 3 * ones, "var": 4 * ones})
    assert model[1].running_mean.tolist() == [3.0] * 8
    assert bn.convert_momentum(0.75, "keras") == 0.25
    assert bn.convert_variance(ones, 3, "biased", "unbiased").tolist() == [1.5] * 8
    assert bn.convert_kernel(np.zeros((4, 8), np.float32), "dense").shape == (8, 4)


def main():
    """Hide, run, and end with exit code 1 if anything of ours asked for what is hidden, be it in vain."""
    asked = hide_all_but("batchnorm", *with_what_they_need("torch", "numpy"))
    run_every_verb()
    ours = [line for line in asked if line.startswith("batchnorm")]
    sys.exit("\n".join(ours) or None)


if __name__ == "__main__":
    main()
