"""Predictions over HTTP: a run answers requests as `predict` answers files, within limits, until it is stopped.

What is served is a `ServedModel`; the application, its limits, its pages and its server know nothing of tables.
"""

from batchnorm.errors import importing

with importing("serve", "serving needs starlette, uvicorn and jinja2"):
    from batchnorm.serving.limits import Limits
    from batchnorm.serving.models import ServedModel, serve_run
    from batchnorm.serving.server import Server, address_of, listen

__all__ = ["Limits", "ServedModel", "Server", "address_of", "listen", "serve_run"]
