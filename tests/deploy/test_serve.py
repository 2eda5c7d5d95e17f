"""A film in, findings out by HTTP: every status, every limit, and nothing of the film besides.

In a process of its own too, under load, and in a browser.
"""

import re
import signal
import socket
import sys
import threading
import time
import zlib
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import httpx
import numpy as np
import pytest
from running import XRAY, ask, start

import xray_lightning
from xray_lightning.deploy import serve as service
from xray_lightning.deploy.classifier import load_classifier
from xray_lightning.deploy.serve import Desk, FilmFindings, ServeLimits, create_app, serve
from xray_lightning.errors import ConfigError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)
WIDE = np.zeros((1001, 1000), np.uint8)
FILM, LARGE = (cv2.imencode(".png", pixels)[1].tobytes() for pixels in (PIXELS, WIDE))


@pytest.fixture(scope="module")
def models(checkpoint, checkpoint_with_points):
    paths = {"bare": checkpoint, "fitted": checkpoint_with_points}
    return {name: load_classifier(path, device="cpu") for name, path in paths.items()}


@pytest.fixture
def app(models):
    return create_app(models)


@pytest.mark.parametrize("kind", ["image/png", "application/dicom", ""])
@pytest.mark.parametrize("dicom", [False, True])
def test_answers_are_the_classifiers(app, models, write_dicom, tmp_path, dicom, kind) -> None:
    """By content, whatever name and type say; each model's own."""
    path = write_dicom(tmp_path / "x.dcm", 255 - PIXELS, PhotometricInterpretation="MONOCHROME1")
    data = path.read_bytes() if dicom else FILM
    form = {"files": {"file": ("x.png" if dicom else "x.dcm", data, kind)}}
    raw = {"content": data, "headers": {"content-type": kind}}
    for answer in ask(app, form, raw, url="/v1/predict?maps=true&film=true"):
        found = FilmFindings.from_json(answer.json())
        assert [(one.model, one.gate) for one in found.models] == [("bare", None), ("fitted", None)]
        for one in found.models:
            wanted = models[one.model](PIXELS)
            told = [(f.score, f.probability, f.called, f.map) for f in one.findings]
            scores, probabilities, calls, maps = zip(*told, strict=True)
            np.testing.assert_array_equal(np.float32(scores), wanted.scores[0])
            np.testing.assert_array_equal(np.float64(probabilities), wanted.probabilities[0])
            np.testing.assert_array_equal(np.float64(calls), wanted.calls[0])
            np.testing.assert_allclose(maps, wanted.maps()[0], atol=1e-5)
        shown = cv2.imdecode(np.frombuffer(b64decode(found.film.split(",")[1]), "u1"), -1)
        np.testing.assert_array_equal(shown[:, 4:36], PIXELS)
        assert (shown.shape, shown[:, :4].max()) == ((40, 40), 0)


def test_the_operating_point_as_a_probability(app, models) -> None:
    (answer,) = ask(app, FILM, url="/v1/predict?model=fitted")
    mass, nodule, _ = answer.json()["models"][0]["findings"]
    reading = models["fitted"].interpretation
    wanted = reading.calibrations["Mass"](reading.thresholds[:1])[0]
    assert mass["threshold"] == reading.thresholds[0]
    assert mass["threshold_probability"] == pytest.approx(wanted)
    assert mass["called"] == (mass["probability"] >= mass["threshold_probability"])
    unknown = "threshold", "threshold_probability", "called", "map"
    assert {nodule[key] for key in unknown} == {None}


SIZES = b"IHDR" + (20_000).to_bytes(4) * 2 + FILM[24:29]  # a header that says 400 million pixels
LONG = FILM + bytes(2 * 10**6)
HUGE = FILM[:12] + SIZES + zlib.crc32(SIZES).to_bytes(4) + FILM[33:]


@pytest.mark.parametrize(
    ("requests", "status", "words"),
    [
        ([b"", b"John Doe", {"data": {"file": "text"}, "files": {}}], 415, "no DICOM, PNG"),
        ([FILM[:-20]], 422, "truncated"),
        ([FILM[:50] + b"?" + FILM[51:]], 422, "wrong checksum"),
        ([b"BM" + bytes(20)], 422, "damaged header"),
        ([bytes(128) + b"DICM" + bytes(60)], 422, "its header|TransferSyntax"),
        ([{"files": [("file", ("a", FILM)), ("file", ("b", FILM))]}], 422, "not one file"),
        ([{"content": b"x", "headers": {"content-type": "Multipart/form-data"}}], 422, "one file"),
        ([{"content": FILM, "url": "/v1/predict?maps=often"}], 422, "true or false"),
        ([{"content": FILM, "url": "/v1/predict?model=best"}], 404, "bare or fitted"),
        ([LONG, {"files": {"file": LONG}}], 413, "more than 2 MB"),
        ([LARGE, HUGE, WIDE], 413, "more than 1 million pixels"),
        (["/v1/predict"], 404, "Not Found"),
        ([{"url": "/v1/none"}], 405, "Not Allowed"),
    ],
)
def test_refusals(models, write_dicom, tmp_path, requests, status, words) -> None:
    app = create_app(models, ServeLimits(megabytes=2, megapixels=1))
    dicom = write_dicom(tmp_path / "x.dcm", WIDE).read_bytes()
    for answer in ask(app, *(dicom if one is WIDE else one for one in requests)):
        assert (answer.status_code, list(answer.json())) == (status, ["detail"])
        assert re.search(words, answer.json()["detail"])
        assert "Doe" not in answer.text


def statuses(app, *requests, **options) -> list[int]:
    return sorted(answer.status_code for answer in ask(app, *requests, **options))


@pytest.fixture
def held(monkeypatch):
    """Films wait for it in the thread that reads them."""
    event, examine = threading.Event(), Desk._examine
    monkeypatch.setattr(Desk, "_examine", lambda *given: (event.wait(20), examine(*given))[1])
    yield event
    event.set()


def test_queue_and_time(models, held) -> None:
    """What is too much is turned away; what is too slow keeps its place until it ends."""
    app = create_app(models, ServeLimits(seconds=1, queue=2))
    told = sorted((one.status_code, one.json()["detail"]) for one in ask(app, FILM, FILM, FILM))
    busy, slow = "2 requests are being answered: try later.", "It took more than 1 s."
    assert told == [(429, busy), (503, slow), (503, slow)]
    assert statuses(app, FILM) == [429]
    held.set()
    until = time.monotonic() + 20
    while (last := statuses(app, FILM)) == [429]:
        assert time.monotonic() < until
    assert last == [200]


def test_shutting_down(models, held, monkeypatch) -> None:
    """What runs is answered, what waits and what comes is told."""
    monkeypatch.setattr(service, "available_cores", lambda: 1)
    app = create_app(models)
    threading.Timer(0.3, app.state.desk.close).start()
    threading.Timer(0.6, held.set).start()
    assert statuses(app, FILM, FILM, FILM) == [200, 503, 503]
    late, health = ask(app, FILM, "/health")
    assert (late.status_code, late.json()["detail"]) == (503, "The service is shutting down.")
    assert (health.status_code, health.json()) == (503, {"closing": True})


def test_token(models) -> None:
    app = create_app(models, token="a token of the tests")
    assert statuses(app, "/", "/page.css", "/page.js", "/health", "/openapi.json") == [200] * 5
    for given, wanted in (("", 401), ("a token", 401), ("a token of the tests", 200)):
        headers = {"authorization": f"Bearer {given}"}
        assert statuses(app, "/v1/models", "/metrics", FILM, headers=headers) == [wanted] * 3


def test_what_it_says_of_itself(app) -> None:
    ask(app, FILM, b"?")
    facts, metrics, schema, page = ask(app, "/v1/models", "/metrics", "/openapi.json", "/")
    assert list(facts.json()) == ["bare", "fitted"]
    assert facts.json()["fitted"]["operating_points"]["rule"] == "youden"
    assert not re.search(f"{Path.home()}|/tmp", facts.text)
    assert 'xray_answers_total{status="415"} 1.0' in metrics.text
    assert "xray_seconds_count 2.0" in metrics.text
    told = schema.json()["paths"]["/v1/predict"]["post"]
    assert sorted(map(int, told["responses"])) == [200, 401, 404, 413, 415, 422, 429, 503]
    assert [*told["requestBody"]["content"]] == ["multipart/form-data", "application/octet-stream"]
    assert "FilmFinding" in schema.json()["components"]["schemas"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")


def test_a_fault_tells_its_place_alone(app, monkeypatch, caplog) -> None:
    monkeypatch.setattr(service, "decode_image", lambda *_: {}["Doe^John"])
    with caplog.at_level("DEBUG"):
        (answer,) = ask(app, FILM)
    assert (answer.status_code, answer.json()["detail"][:19]) == (500, "The service failed:")
    assert "KeyError in " in caplog.text
    assert "Doe" not in caplog.text + answer.text


def test_what_cannot_be_served(models, checkpoint_with_points, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="queue must be an integer of at least 1, got 0"):
        ServeLimits(queue=0)
    estimated = load_classifier(checkpoint_with_points, device="cpu", prior="estimate")
    with pytest.raises(ConfigError, match="prior=estimate needs many films"):
        create_app({"a": estimated})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = {
            "host=0.0.0.0 lets others in": {"host": "0.0.0.0"},
            "at least 16 characters, it has 5": {"host": "example.org", "token": "short"},
            "method=gradient has a value for each pixel": {"method": "gradient"},
            "nothing": {"method": "nothing"},
            "Address already in use": {"port": taken.getsockname()[1]},
        }
        for words, settings in refused.items():
            with pytest.raises(ConfigError, match=words):
                serve(models, **settings)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "xray_lightning.deploy.serve")
    with pytest.raises(ConfigError, match=r"needs fastapi: pip install 'xray_lightning\[serve\]'"):
        xray_lightning.create_app  # noqa: B018


def test_the_gate_is_heard(models, monkeypatch) -> None:
    """Its reasons, those of the header of DICOM too, and its share of false alarms."""
    header, model = ("header: modality MR",), models["bare"]
    opinion = SimpleNamespace(reasons=(*header, "mirrored: 0.9"))
    check = Mock(return_value=(np.full((1, 3), 0.5, np.float32), [opinion]))
    app = create_app({"a": model})
    monkeypatch.setattr(model, "gate", SimpleNamespace(false_alarms=0.05))
    monkeypatch.setattr(model, "score_and_check", check)
    monkeypatch.setattr(service, "check_file", lambda *_: header)
    (one,) = ask(app, FILM)[0].json()["models"]
    assert (one["gate"], one["false_alarms"]) == ([*opinion.reasons], 0.05)
    assert check.call_args.args[1] == [header]


CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def serving(*words):
    """``xray serve`` of these words, a client and the address once it answers; it says no more."""
    said = []
    command = [*XRAY, "serve", *map(str, words)]
    process = start(command, lambda one: said.append(one.stdout.readline().strip()) or said[-1])
    try:
        with httpx.Client(base_url=said[-1], timeout=60) as client:
            yield process, client, said[-1]
    finally:
        process.kill()
        rest = process.communicate()[0].strip()
    assert rest == {143: "stopped by SIGTERM", 129: "stopped by SIGHUP"}.get(process.returncode, "")


@pytest.mark.slow
@pytest.mark.alone
def test_load(checkpoint_with_points, tmp_path, write_dicom, monkeypatch) -> None:
    """500 films of 16 clients, every fifth broken: none is lost or mixed up, the memory is flat."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    classifier = load_classifier(checkpoint_with_points, device="cpu")
    rng, films, wanted, sizes, seconds = np.random.default_rng(0), [], [], [], []
    for at in range(500):
        pixels = rng.integers(0, 256, (600 + at, 1000), dtype=np.uint8)
        data = write_dicom(tmp_path / "x.dcm", pixels).read_bytes()
        data = data if at % 2 else cv2.imencode(".png", pixels)[1].tobytes()
        films.append(data if at % 5 else data[: len(data) // 2])
        wanted += [classifier(pixels).scores[0]] if at % 5 else []
    with serving(checkpoint_with_points, "port=0") as (process, client, _):

        def send(at: int) -> httpx.Response:
            given = {"files": {"file": films[at]}} if at % 3 else {"content": films[at]}
            answer = client.post("/v1/predict?maps=true&film=true", **given)
            seconds.append(answer.elapsed.total_seconds())
            told = Path(f"/proc/{process.pid}/status").read_text()
            sizes.append(int(re.search(r"VmRSS:\s+(\d+) kB", told)[1]))
            return answer

        with ThreadPoolExecutor(16) as clients:
            answers = list(clients.map(send, range(500)))
        counts = client.get("/metrics").text
    assert [answer.status_code for answer in answers] == [422, 200, 200, 200, 200] * 100
    told = [answer.json()["models"][0]["findings"] for at, answer in enumerate(answers) if at % 5]
    scores = np.float32([[one["score"] for one in findings] for findings in told])
    np.testing.assert_array_equal(scores, wanted)
    first, last = max(sizes[80:120]), max(sizes[-40:])
    p95, median = 1000 * np.percentile(seconds, [95, 50])
    print(f"\np95 {p95:.0f} ms, median {median:.0f} ms; memory {first:,} kB, then {last:,} kB")
    assert last < 1.05 * first
    lines = 'xray_answers_total{status="200"} 400.0', 'xray_answers_total{status="422"} 100.0'
    assert set(lines) <= set(counts.splitlines())
    left = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == [tmp_path / "x.dcm"]


@pytest.mark.slow
def test_killed_and_started_again(checkpoint) -> None:
    """On the same port, after kill -9 too; others end it in seconds, with their exit code."""
    with serving(checkpoint, "port=0") as (process, client, url):
        assert client.get("/health").json() == {"closing": False}
        process.kill()
        process.wait(20)
        with pytest.raises(httpx.HTTPError):
            client.get("/health")
    port = url.rpartition(":")[2]
    for number in (signal.SIGTERM, signal.SIGHUP):
        with serving(checkpoint, checkpoint, f"port={port}") as (process, client, _):
            models = client.get("/v1/models").json()
            assert list(models) == [checkpoint.stem, f"{checkpoint.stem}_2"]
            process.send_signal(number)
            assert process.wait(20) == 128 + number


@pytest.fixture(scope="module")
def browse(checkpoint_with_points):
    """Opens the page; a message in the console, or a request to elsewhere, fails the last test."""
    sync, said = pytest.importorskip("playwright.sync_api", reason="playwright is missing"), []
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with serving(checkpoint_with_points, "port=0") as (_, _, url), sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])

        def open_page(film=None, **options):
            page = browser.new_context(**options).new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: said.append(request.url))
            page.goto(url)
            if film:
                page.set_input_files("#file", film)
                page.wait_for_selector(SHOWN, timeout=60_000)
            return page

        yield open_page
        browser.close()
    assert [text for text in said if not re.match(f"{url}|data:|.*status of 4", text)] == []


@pytest.fixture
def film(tmp_path, write_dicom) -> Path:
    return write_dicom(tmp_path / "Doe^John.dcm", np.tile(np.arange(256, dtype=np.uint8), (300, 1)))


SHOWN = "#result:not([hidden])"
GREY = "document.querySelector('#film').getContext('2d').getImageData(150, 150, 1, 1).data[0]"
ZOOM = "document.querySelector('#sheet').style.transform"


@pytest.mark.slow
def test_read_and_slide(browse, film) -> None:
    page = browse(film)
    assert "Doe" not in page.content() + page.inner_text("body")
    unknown = "whether the film is one of its kind is not known"
    told = {"header": "not for diagnosis", "#status": "Done. best: ", "#map-text": "Map of"}
    for place, words in (told | {"#models": unknown}).items():
        assert words in page.inner_text(place)
    assert [page.locator(kind).count() for kind in (".finding", ".mark")] == [4, 1]
    page.fill("#opacity", "20")
    assert page.evaluate("document.querySelector('#map').style.opacity") == "0.2"
    before = page.evaluate(GREY)
    page.fill("#level", "60")
    assert page.evaluate(GREY) > before
    page.locator("#view").hover()
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(500)
    assert "scale(1.15)" in page.evaluate(ZOOM)
    page.get_by_role("button", name="As at first").click()
    assert page.evaluate(GREY) == before
    page.get_by_label("no map").check()
    assert page.inner_text("#map-text") == ""
    page.locator("summary").click()
    assert "youden on val" in page.inner_text("#facts")
    film.write_bytes(film.read_bytes()[:-500])  # no older findings stand beside an error
    page.set_input_files("#file", film)
    page.wait_for_selector("#error:not([hidden])")
    assert "truncated" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("status").inner_text() == "No findings."
    assert not page.locator("#result").is_visible()


@pytest.mark.slow
def test_by_keyboard_alone(browse, film) -> None:
    """Everything is reached by Tab, and the choice of a file opens by Enter."""
    page = browse(reduced_motion="reduce")

    def press(*keys: str) -> str:
        for key in keys:
            page.keyboard.press(key)
        return page.evaluate("document.activeElement.id || document.activeElement.tagName")

    with page.expect_file_chooser() as chosen:
        assert press("Tab") == "file"  # its answer leaves the browser time to listen
        press("Enter")
    chosen.value.set_files(film)
    page.wait_for_selector(SHOWN, timeout=60_000)
    assert press("Tab") == "view"
    before = page.evaluate(GREY)
    press("+", "ArrowRight", "Shift+ArrowUp")
    assert page.evaluate(ZOOM) == "translate(-22.5%, -12.5%) scale(1.25)"
    assert page.evaluate(GREY) < before
    press("0")
    assert page.evaluate(GREY) == before
    reached = "opacity", "zoom", "level", "width", "reset", "INPUT", "SUMMARY"
    assert tuple(press("Tab") for _ in reached) == reached
    press("Shift+Tab")
    first = page.inner_text("#map-text")
    press("ArrowDown")
    assert page.inner_text("#map-text") not in ("", first)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browse, film, scheme) -> None:
    """Nothing is wider than 390 px; text stands out from its ground by 4.5 to 1 (WCAG 1.4.3)."""
    page = browse(film, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ask = "getComputedStyle(document.querySelector('{}')).{}"
    asked = [ask.format("body", "backgroundColor")]
    asked += [ask.format(place, "color") for place in ("body", ".small", ".finding .name")]
    rgb = np.array([page.evaluate(one)[4:-1].split(",") for one in asked], float) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ground, *texts = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    assert min(max(text / ground, ground / text) for text in texts) >= 4.5
