"""The application: what is answered at which address, and what is refused."""

import asyncio
import ipaddress
import json
import logging
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchnorm import pages, playground
from batchnorm.errors import InputError, is_lack_of_memory, with_class
from batchnorm.printing import printable
from batchnorm.serving.limits import Limits, RefusedError
from batchnorm.serving.models import ServedModel
from batchnorm.serving.openapi import document
from batchnorm.serving.worker import Worker

_PAGES = Path(__file__).parent / "pages"
_STYLES = (pages.STYLE, _PAGES / "asking.css", playground.STYLE)
_OWN_SCRIPTS = tuple(_PAGES / name for name in ("answer.js", "table.js", "image.js", "array.js"))
_FILES = dict.fromkeys(_STYLES, "text/css") | dict.fromkeys((*_OWN_SCRIPTS, *playground.SCRIPTS), "text/javascript")
_DROPPED = 64 << 20  # bytes beyond the limit that are read and dropped: who still writes does not read the answer
_LONGEST_ERROR = 400
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TOLD = {408: {"Connection": "close"}, 503: {"Retry-After": "1"}}  # with a refusal
_log = logging.getLogger(__name__)


def make_application(
    model: ServedModel, limits: Limits, worker: Worker, host: str, is_stopping: Callable[[], bool]
) -> Starlette:
    """Return the application that serves a model.

    Parameters
    ----------
    model : ServedModel
    limits : Limits
    worker : Worker
        Who computes the answers.
    host : str
        The name that it is reached by, besides localhost and numbers.
    is_stopping : callable
        Tells whether connections are to be closed behind their answers.
    """
    application = Starlette(
        routes=[
            Route("/predict", partial(_predict, model, limits, worker), methods=["POST"]),
            Route("/health", _health),
            *_pages(model, limits),
        ],
        middleware=[Middleware(_Guard, host=host, is_stopping=is_stopping)],
        exception_handlers={RefusedError: _refused, HTTPException: _not_found},
    )
    application.router.redirect_slashes = False
    return application


def _pages(model: ServedModel, limits: Limits) -> list[Route]:
    described = document(model, limits)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    values = {"model": model, "openapi": described}
    page, docs = (templates.get_template(name).render(values) for name in (model.page, "docs.html"))
    files = [
        Route(f"/{path.name}", partial(_always, Response(path.read_bytes(), media_type=kind)))
        for path, kind in _FILES.items()
    ]
    return [
        Route("/", partial(_always, HTMLResponse(page))),
        Route("/docs", partial(_always, HTMLResponse(docs))),
        Route("/openapi.json", partial(_always, JSONResponse(described))),
        *files,
    ]


async def _always(response: Response, request: Request) -> Response:
    return response


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _predict(model: ServedModel, limits: Limits, worker: Worker, request: Request) -> Response:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not fnmatchcase(kind, model.content_type):  # other sites' pages may send texts and forms, and untyped bytes
        raise RefusedError(415, f"the body is of type {kind or 'none'!r}, expected Content-Type: {model.content_type}")
    end = asyncio.get_running_loop().time() + limits.seconds
    with worker.place() as place:
        try:
            async with asyncio.timeout_at(end):
                body = await _body(request, limits.bytes)
        except TimeoutError as error:
            raise RefusedError(408, f"the body was not there within {limits.seconds:g} seconds") from error
        try:
            async with asyncio.timeout_at(end):
                return Response(await place.compute(partial(_answer, model, body)), media_type="application/json")
        except TimeoutError as error:
            raise RefusedError(503, f"the answer was not there within {limits.seconds:g} seconds: send less") from error


async def _body(request: Request, most: int) -> bytes:
    body, size = bytearray(), 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size <= most:
                body += piece
            else:
                body.clear()
            if size > most + _DROPPED:
                break
    except ClientDisconnect as error:
        raise RefusedError(400, "the connection was closed before the end of the body") from error
    if size > most:
        raise RefusedError(413, f"the body is larger than {most:,} bytes: send fewer rows, or a smaller image")
    return bytes(body)


def _answer(model: ServedModel, body: bytes) -> bytes:
    try:
        return json.dumps(model.answer(body), allow_nan=False, default=str).encode()
    except InputError as error:
        raise RefusedError(422, str(error)) from error
    except Exception as error:
        if is_lack_of_memory(error):
            raise RefusedError(503, "memory ran out: send less") from error
        said = printable(with_class(error))
        _log.error(
            "batchnorm: a request could not be answered: %s", said, exc_info=bool(os.environ.get("BATCHNORM_TRACEBACK"))
        )
        raise RefusedError(500, "the answer failed: standard error of the server says why") from error


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    said = str(error)
    said = said if len(said) <= _LONGEST_ERROR else f"{said[:_LONGEST_ERROR]}…"
    return JSONResponse({"error": said}, error.status, _TOLD.get(error.status))


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing here: try / or /docs", 405: f"{request.method} is not for this address"}
    return JSONResponse({"error": said.get(error.status_code, error.detail)}, error.status_code, error.headers)


class _Guard:
    """Refuses what was meant for another host, and has every answer carry what browsers are told.

    A page of another site can have its own name lead here (DNS rebinding), and read answers; not a number, and not our
    names.
    """

    def __init__(self, application: ASGIApp, host: str, is_stopping: Callable[[], bool]):
        self._application, self._is_stopping = application, is_stopping
        self._names = {"localhost", host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if self._is_stopping():
                    headers["Connection"] = "close"
            await send(message)

        given = Headers(scope=scope).get("host", "")
        if self._is_ours(given):
            await self._application(scope, receive, send_with_headers)
        else:
            said = f"this is not {given[:_LONGEST_ERROR]!r}: the server answers to numbers, localhost and its --host"
            await JSONResponse({"error": said}, 400)(scope, receive, send_with_headers)

    def _is_ours(self, given: str) -> bool:
        try:
            name = urlsplit(f"//{given}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False
