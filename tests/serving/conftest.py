"""What tests of served runs share."""

import pytest

from batchnorm.serving import serve_run, server
from batchnorm.serving.limits import Limits
from batchnorm.tables import train_table
from served_runs import Held, Serving
from table_cases import table_file


@pytest.fixture(scope="session")
def weather_run(tmp_path_factory):
    """The folder of a run on the weather of a city."""
    folder = tmp_path_factory.mktemp("weather")
    parameters = {"epochs": 2, "hidden_layer_sizes": (8,)}
    train_table([table_file("weather", folder)], ["weather"], parameters=parameters, out=folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def serving(weather_run):
    """A server of that run."""
    with Serving(serve_run(weather_run, Limits())) as serving:
        yield serving


@pytest.fixture
def held(weather_run, monkeypatch):
    """A model that answers when it is let, whose server stops soon."""
    monkeypatch.setattr(server, "_REST", 0.0)
    model = Held(weather_run, Limits())
    yield model
    model.let.set()
