"""The service as it runs: in a process of its own, under load, and in a browser."""

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from running import XRAY, start

from xray_lightning.deploy.classifier import load_classifier

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def service(*words):
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
    assert rest == ("" if process.returncode == -signal.SIGKILL else "stopped by SIGTERM")


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
    with service(checkpoint_with_points, "port=0") as (process, client, _):

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
    assert [*tmp_path.iterdir()] == [tmp_path / "x.dcm"]


def test_killed_and_started_again(checkpoint) -> None:
    """On the same port, after kill -9 too; SIGTERM ends it in seconds with its own exit code."""
    with service(checkpoint, "port=0") as (process, client, url):
        assert client.get("/health").json() == {"closing": False}
        process.kill()
        process.wait(20)
        with pytest.raises(httpx.HTTPError):
            client.get("/health")
    port = url.rpartition(":")[2]
    with service(checkpoint, checkpoint, f"port={port}") as (process, client, _):
        models = client.get("/v1/models").json()
        assert list(models) == [checkpoint.stem, f"{checkpoint.stem}_2"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def browse(checkpoint_with_points):
    """Opens the page; a message in the console, or a request to elsewhere, fails the last test."""
    sync, said = pytest.importorskip("playwright.sync_api", reason="playwright is missing"), []
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with service(checkpoint_with_points, "port=0") as (_, _, url), sync.sync_playwright() as play:
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
    pixels = np.tile(np.arange(256, dtype=np.uint8), (300, 1))
    return write_dicom(tmp_path / "Doe^John.dcm", pixels)


SHOWN = "#result:not([hidden])"
GREY = "document.querySelector('#film').getContext('2d').getImageData(150, 150, 1, 1).data[0]"
ZOOM = "document.querySelector('#sheet').style.transform"


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
