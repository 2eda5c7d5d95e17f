"""A page and an API over classifiers: a film comes in by HTTP, findings go out, nothing stays."""

import asyncio
import logging
import secrets
import signal
import socket
import traceback
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pil

from xray_lightning.data.decoding import available_cores
from xray_lightning.data.dicom.header import read_header, read_layout
from xray_lightning.data.files import JPEG, PNG, TIFF, is_dicom
from xray_lightning.data.geometry import fit_square
from xray_lightning.data.images import collect_notes, decode_image
from xray_lightning.deploy.classifier import Classifier, Findings
from xray_lightning.deploy.gate import check_file
from xray_lightning.deploy.inputs import Pixels
from xray_lightning.deploy.predict import identify
from xray_lightning.errors import ConfigError, InvalidImageError, require_integer
from xray_lightning.evaluation.predictions import require_scores
from xray_lightning.explain.maps import PIXELS, grid_of
from xray_lightning.results import Json, Result
from xray_lightning.wording import fault

try:  # an extra; the package's face imports this module when a name of it is used
    import python_multipart as python_multipart
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from prometheus_client import CollectorRegistry, Counter, ProcessCollector, Summary
    from prometheus_client import generate_latest as collect
    from starlette.formparsers import MultiPartException, MultiPartParser
    from starlette.requests import ClientDisconnect
    from starlette.staticfiles import StaticFiles
except ImportError as error:
    raise ConfigError(fault("no_service", error.name)) from error

LOG = logging.getLogger(__name__)
NOTICE = "For research. Not a medical device: not for diagnosis."
SIDE = 1024  # px of the film on the page, at most
GRACE = 4  # seconds to finish what runs, once a signal ends the service
SHORTEST = 16  # characters of a token that lets others in
LOOPBACK = ("127.0.0.1", "::1", "localhost")
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
POLICY += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
HEADERS |= {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
CLOSED = ("/v1/predict", "/v1/models", "/metrics")  # to requests without the token
PAGE = Path(__file__).with_name("page")
BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "properties": {"file": BINARY["schema"]}}}
BODY = {"content": {"multipart/form-data": FORM, "application/octet-stream": BINARY}}
Answer = Callable[[Request], Awaitable[Response]]
Models = Mapping[str, Classifier]  # by the name that ``model=`` chooses


@dataclass(frozen=True)
class ServeLimits:
    """What a service takes; ConfigError for what is no whole number from 1."""

    megabytes: int = 64  # of a request
    megapixels: int = 40  # of a film
    seconds: int = 30  # from a request to its answer
    queue: int = 16  # requests at once: received, read, scored or waiting

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_integer(name, value, 1)


@dataclass(frozen=True)
class FilmFinding(Result):
    """What a model says of one finding; null where it cannot be known."""

    label: str
    score: float  # sigmoid output
    probability: float | None  # calibrated
    called: bool | None  # whether the score reaches the operating point
    threshold: float | None  # the operating point
    threshold_probability: float | None  # the probability of a score that just reaches it
    map: list[list[float]] | None  # (h, w) cells, see ``ModelFindings.cells``


@dataclass(frozen=True)
class ModelFindings(Result):
    """What one model says of a film."""

    model: str
    findings: list[FilmFinding]
    gate: list[str] | None  # why the film may be of another kind; null: the model has no gate
    false_alarms: float | None  # of the gate, share of films as it knows them
    cells: list[list[float]]  # of maps, down and across: the first and the step, in sides of a film


@dataclass(frozen=True)
class FilmFindings(Result):
    """The answer to a film."""

    models: list[ModelFindings]
    reader: list[str]  # what its reader decided by a fall-back
    film: str | None  # at its window, padded to a square: a PNG as a data: address
    notice: str = NOTICE


class Desk:
    """Takes films, reads and scores them in threads within the limits, and forgets them."""

    def __init__(self, models: Models, limits: ServeLimits, token: str, method: str) -> None:
        self.models, self.limits, self.token, self.method = models, limits, token, method
        self.facts = {name: describe_model(model) for name, model in models.items()}
        self.cells = {name: place_cells(model, method) for name, model in models.items()}
        self.closing, self._seats = False, BoundedSemaphore(limits.queue)
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="film")
        self.told = told = CollectorRegistry()
        self._answers = Counter("xray_answers", "Of /v1/predict", ["status"], registry=told)
        self._seconds = Summary("xray_seconds", "From a film to its findings", registry=told)
        ProcessCollector(registry=told)

    def close(self) -> None:
        """Begin nothing more; what runs goes on."""
        self.closing = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def predict(
        self, request: Request, model: str = "", maps: bool = False, film: bool = False
    ) -> Response:
        """Findings of a film by one model, or by all; with maps, and with its picture."""
        if {*request.query_params} - {"model", "maps", "film"}:
            raise HTTPException(422, "The query may hold model, maps and film, no other word.")
        if model and model not in self.models:
            raise HTTPException(404, f"There is no such model: take {' or '.join(self.models)}.")
        if not self._seats.acquire(blocking=False):
            raise HTTPException(429, f"{self.limits.queue} requests are being answered: try later.")
        job: Future[FilmFindings] = Future()
        job.cancel()  # until there is one
        try:
            async with asyncio.timeout(self.limits.seconds):
                with self._seconds.time():
                    data = await receive(request, self.limits.megabytes)
                    names = [model] if model else [*self.models]
                    job = self._pool.submit(self._examine, data, names, maps, film)
                    return JSONResponse((await asyncio.wrap_future(job)).to_json())
        except TimeoutError:
            raise HTTPException(503, f"It took more than {self.limits.seconds} s.") from None
        except (asyncio.CancelledError, RuntimeError):  # the pool's, once it is shut
            if not self.closing:
                raise
            raise HTTPException(503, "The service is shutting down.") from None
        finally:  # what runs cannot be stopped, and keeps its seat until it ends
            job.add_done_callback(lambda _: self._seats.release())

    async def guard(self, request: Request, go_on: Answer) -> Response:
        """What every request and answer passes."""
        path, given = request.url.path, request.headers.get("authorization", "")
        try:
            right = secrets.compare_digest(given.encode(), f"Bearer {self.token}".encode())
            if right or not self.token or path not in CLOSED:
                response = await go_on(request)
            else:
                response = JSONResponse({"detail": "The token is missing or wrong."}, 401)
        except Exception as error:  # noqa: BLE001 - of any type, and its text may hold a name
            place = traceback.extract_tb(error.__traceback__)[-1]
            LOG.error("%s in %s:%d", type(error).__name__, place.filename, place.lineno)
            response = JSONResponse({"detail": "The service failed: its log says where."}, 500)
        response.headers.update(HEADERS)
        if path == "/v1/predict":
            self._answers.labels(response.status_code).inc()
        return response

    def _examine(self, data: bytes, names: list[str], maps: bool, film: bool) -> FilmFindings:
        if not (is_dicom(data) or data.startswith((PNG, JPEG, *TIFF, b"BM"))):
            raise HTTPException(415, "That is no DICOM, PNG, JPEG, BMP or TIFF file by content.")
        try:
            if count_pixels(data) > (most := self.limits.megapixels) * 10**6:
                raise HTTPException(413, f"The film has more than {most} million pixels.")
            with collect_notes() as notes:
                pixels = decode_image(data, "The film")
        except InvalidImageError as error:  # quotes nothing of the file but sizes and kinds
            raise HTTPException(422, f"{error}.") from None
        answers = [self._ask(name, data, pixels, notes, maps) for name in names]
        png = cv2.imencode(".png", fit_square(pixels, min(SIDE, max(pixels.shape))))[1].tobytes()
        address = f"data:image/png;base64,{b64encode(png).decode()}" if film else None
        return FilmFindings(answers, notes, address)

    def _ask(
        self, name: str, data: bytes, film: Pixels, notes: list[str], maps: bool
    ) -> ModelFindings:
        model, header = self.models[name], data if is_dicom(data) else None
        square, reading, gate = model.fit(film)[None], model.interpretation, model.gate
        scores, (opinion,) = model.score_and_check(square, [check_file(gate, header, notes)])
        require_scores(scores, ["the film"])
        findings, drawn = Findings(scores, reading, square, model), [None] * len(model.labels)
        if maps:
            drawn = findings.maps(method=self.method)[0].astype(float).round(5).tolist()
        points = reading.probabilities(reading.thresholds.astype(np.float32)[None])[0].tolist()
        calls = [None if call != call else call == 1 for call in findings.calls[0].tolist()]
        columns = scores[0].tolist(), findings.probabilities[0].tolist(), calls
        rows = zip(model.labels, *columns, reading.thresholds.tolist(), points, drawn, strict=True)
        listed, share = [FilmFinding(*row) for row in rows], gate.false_alarms if gate else None
        reasons = [*opinion.reasons] if opinion else None
        return ModelFindings(name, listed, reasons, share, self.cells[name])


def describe_model(classifier: Classifier) -> Json:
    """What model.json says of ``xray predict``'s model, without paths."""
    reading = classifier.interpretation
    if reading.prior in ("estimate", "force_estimate"):
        raise ConfigError(f"prior={reading.prior} needs many films, a page has one: name a number")
    facts = identify(classifier) | reading.to_json()
    return {key: facts[key] for key in facts if key not in ("checkpoint_file", "source")}


def place_cells(classifier: Classifier, method: str) -> list[list[float]]:
    """See ``ModelFindings.cells``; ConfigError if the network has no such maps."""
    if method in PIXELS:
        raise ConfigError(f"method={method} has a value for each pixel: take cam or gradcam")
    shape, size = classifier.require_maps(method), classifier.preprocessing["image_size"]
    places = [grid_of(cells, size, classifier.grids) for cells in shape]
    return [[(place.first + 0.5) / size, place.step / size] for place in places]


async def receive(request: Request, megabytes: int) -> bytes:
    """The body of a request, or the file of the form in it; it stays in memory."""

    async def limited() -> AsyncGenerator[bytes, None]:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > megabytes * 10**6:
                raise HTTPException(413, f"The request has more than {megabytes} MB.")
            yield chunk

    try:
        if not request.headers.get("content-type", "").lower().startswith("multipart/"):
            return b"".join([chunk async for chunk in limited()])
        parser = MultiPartParser(request.headers, limited(), max_files=1, max_fields=9)
        parser.spool_max_size = megabytes * 10**6  # bytes; more would go to the disk
        form = await parser.parse()
        files = [part for part in form.values() if not isinstance(part, str)]
        data = await files[0].read() if files else b""
        await form.close()
        return data
    except (MultiPartException, ClientDisconnect):
        raise HTTPException(422, "It ends early, or its form is not one file.") from None


def count_pixels(data: bytes) -> float:
    """How many pixels a file says it has, before any is decoded."""
    if is_dicom(data):
        layout = read_layout(read_header(BytesIO(data))[0])
        return layout.rows * layout.columns
    try:
        with Pil.open(BytesIO(data), "r") as film:
            return film.width * film.height
    except (Pil.DecompressionBombError, Pil.DecompressionBombWarning):
        return np.inf
    except (OSError, ValueError):
        raise InvalidImageError("The film has a damaged header") from None


def create_app(
    classifiers: Models, limits: ServeLimits | None = None, *, token: str = "", method: str = "cam"
) -> FastAPI:
    """A FastAPI app: a page at /, findings at /v1/predict, /v1/models, /health and /metrics.

    Nothing is written to disk, nothing of a request is logged. ``app.state.desk.close()`` turns
    away what has not begun. Requests have to bring the ``token``, if there is one; ``method`` is
    that of the maps, see :func:`~xray_lightning.class_maps`.

    Raises:
        ConfigError: a model has no such maps, or is to estimate its prior.
    """
    app = FastAPI(title="xray_lightning", description=NOTICE, docs_url=None, redoc_url=None)
    app.state.desk = desk = Desk(dict(classifiers), limits or ServeLimits(), token, method)
    told: Any = {code: {} for code in (401, 404, 413, 415, 422, 429, 503)}
    told[200] = {"model": FilmFindings}
    app.post("/v1/predict", responses=told, openapi_extra={"requestBody": BODY})(desk.predict)
    app.get("/v1/models", name="models")(lambda: JSONResponse(desk.facts))
    app.get("/metrics", name="metrics")(lambda: Response(collect(desk.told)))
    app.get("/health", name="health")(
        lambda: JSONResponse({"closing": desk.closing}, 503 if desk.closing else 200)
    )
    query = {"detail": "maps= and film= are true or false."}
    app.exception_handler(RequestValidationError)(lambda *_: JSONResponse(query, 422))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.middleware("http")(desk.guard)
    return app


def serve(
    classifiers: Models,
    limits: ServeLimits | None = None,
    *,
    host: str = "127.0.0.1",  # any but loopback needs a token
    port: int = 8000,  # 0: a free one
    token: str = "",
    method: str = "cam",
    ready: Callable[[str], object] = print,  # called with the address once it is taken
) -> None:
    """Serve the app of :func:`create_app` until a signal ends it.

    Raises:
        ConfigError: as there; no token where one is needed; an address that cannot be had.
    """
    if host not in LOOPBACK and len(token) < SHORTEST:
        raise ConfigError(fault("short_token", host, SHORTEST, token))
    app = create_app(classifiers, limits, token=token, method=method)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"host={host} port={port}: {error.args[-1]}; take others") from error
    ready(f"http://{host}:{listening.getsockname()[1]}")
    quiet: Any = {"access_log": False, "log_level": "warning", "server_header": False}
    _Server(uvicorn.Config(app, timeout_graceful_shutdown=GRACE, **quiet)).run([listening])


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGHUP too, which uvicorn does not know."""
        with super().capture_signals():
            before = signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Tells the desk first, in its own loop: a signal comes at any line."""
        close = self.config.app.state.desk.close  # type: ignore[union-attr]
        asyncio.get_running_loop().call_soon_threadsafe(close)
        super().handle_exit(sig, frame)
