"""The OpenAPI document of what is served."""

from collections.abc import Mapping
from typing import Any

from batchnorm.serving.limits import Limits
from batchnorm.serving.models import ServedModel
from batchnorm.version import __version__

_JSON = "application/json"
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "What is wrong, in one line."}},
    "required": ["error"],
}


def document(model: ServedModel, limits: Limits) -> dict[str, Any]:
    """Return it, as what JSON knows."""
    body, answer = model.schemas()
    refusals = {
        "408": f"The body was not there within {limits.seconds:g} seconds.",
        "413": f"The body is larger than {limits.bytes:,} bytes.",
        "415": f"The body is not of type {model.content_type}.",
        "422": "The body is not as it is described.",
        "503": f"There is no answer within {limits.seconds:g} seconds, or {limits.waiting} requests are under way.",
    }
    predict = {
        "summary": f"Predict {model.title}",
        "operationId": "predict",
        "requestBody": {"required": True, **_content(model.content_type, body)},
        "responses": {
            "200": _response("What is predicted.", answer),
            **{status: _response(why, _ERROR) for status, why in refusals.items()},
        },
    }
    is_ok = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
    health = {
        "summary": "Tell that the server answers",
        "operationId": "health",
        "responses": {"200": _response("It does.", is_ok)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Predictions of {model.title}", "version": __version__},
        "paths": {"/predict": {"post": predict}, "/health": {"get": health}},
    }


def _content(kind: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if kind == _JSON:
        return {"content": {kind: {"schema": schema}}}
    return {"description": schema["description"], "content": {kind: {}}}  # so OpenAPI has bytes as they are


def _response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, **_content(_JSON, schema)}
