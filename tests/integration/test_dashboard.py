"""The dashboard in a real Chromium, against a double of the API over real HTTP."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.unit.dashboard import fake_api
from tests.unit.dashboard.fake_api import OWNER_KEY, PROVIDER_KEY, FakeApi

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.browser, pytest.mark.integration]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_SECONDS = 30.0
HOSTILE = (
    '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
    "`${window.hacked=1}`{{constructor.constructor('window.hacked=1')()}}</script>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A running dashboard process."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    """Its working folder, where it must leave nothing."""
    log: Path


@pytest.fixture(scope="module")
def double() -> Iterator[FakeApi]:
    """The API's double, one for all tests here; each test fills it anew."""
    fake = FakeApi()
    with fake.serve():
        yield fake


@pytest.fixture(scope="module")
def dashboard(double: FakeApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """`python -m dashboard` in a folder of its own, stopped by SIGTERM."""
    root = tmp_path_factory.mktemp("dashboard")
    folder, secret, log = root / "cwd", root / "secret", root / "log"
    folder.mkdir()
    secret.write_text(secrets.token_hex(32))
    secret.chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dashboard", "--port", str(port), "--api", double.url],
            cwd=folder,
            env=os.environ
            | {"DOUBLEI_DASHBOARD_SECRET_FILE": str(secret), "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url, process, log)
        yield Dashboard(url=url, process=process, folder=folder, log=log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx2.Client(trust_env=False) as client:
        while True:
            try:
                if client.get(f"{url}/healthz").status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the dashboard did not start: {log.read_text()}")
            time.sleep(0.05)


@pytest.fixture
def fake(double: FakeApi) -> Iterator[FakeApi]:
    """The double, with nothing in it and all well."""
    double.jobs, double.verifications, double.events, double.campaigns = [], [], {}, []
    double.organizations = [
        {"id": "org-000000000000000000owner1", "name": "Harbour Bakery", "role": "owner"},
        {"id": "org-0000000000000000auditor1", "name": "Northgate Audit", "role": "auditor"},
    ]
    double.keys = {PROVIDER_KEY: "provider", OWNER_KEY: "owner"}
    double.checks = dict.fromkeys(double.checks, "ok")
    yield double
    double.broken = False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser, dashboard: Dashboard) -> Iterator[BrowserContext]:
    """A browser profile without cookies. Script errors and requests to other hosts fail the test."""
    made = browser.new_context(viewport={"width": 1440, "height": 1000})
    made.set_default_timeout(30_000)
    foreign: list[str] = []
    errors: list[str] = []
    own = urlsplit(dashboard.url).netloc
    made.on(
        "request",
        lambda request: (
            foreign.append(request.url)
            if request.url.startswith(("http", "ws")) and urlsplit(request.url).netloc != own
            else None
        ),
    )
    made.on("weberror", lambda error: errors.append(str(error.error)))
    yield made
    made.close()
    assert foreign == []
    assert errors == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab that is not signed in."""
    return context.new_page()


def sign_in(page: Page, dashboard: Dashboard, *, path: str = "/", key: str = PROVIDER_KEY) -> None:
    """Type the key and wait for what comes."""
    page.goto(dashboard.url + "/sign-in")
    page.fill("#key", key)
    page.click("button[type=submit]")
    if path != "/":
        page.goto(dashboard.url + path)


def test_who_is_not_signed_in_sees_only_the_sign_in_page(
    page: Page, dashboard: Dashboard, fake: FakeApi
) -> None:
    """The page redirects, and shows no figure."""
    fake.jobs = [fake_api.job(1, user_provided_suffix="not-for-strangers")]
    page.goto(dashboard.url + "/")
    assert urlsplit(page.url).path == "/sign-in"
    assert page.get_attribute("#key", "type") == "password"
    assert "not-for-strangers" not in page.content()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("di_nobody000000_" + "x" * 43, "does not know this key"),
        (OWNER_KEY, "not a provider's"),
        ("not a key", "Enter an API key"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_a_key_that_will_not_do_is_refused_in_words(
    page: Page, dashboard: Dashboard, key: str, told: str
) -> None:
    """Unknown, of the wrong role, or no key at all: each is told apart, and none comes back in the page."""
    sign_in(page, dashboard, key=key)
    assert told in page.inner_text("[role=alert]")
    assert key not in page.content()
    assert page.context.cookies() == []


def test_the_key_stays_on_the_server(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Not in a URL, the page, a cookie, the browser's storage, a file or the log."""
    fake.jobs = [fake_api.job(1)]
    urls: list[str] = []
    page.context.on("request", lambda request: urls.append(request.url))
    sign_in(page, dashboard)
    page.wait_for_selector(".row-open:visible")
    stored = page.evaluate("JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
    cookies = page.context.cookies()
    for place in (page.content(), stored, str(cookies), *urls, dashboard.log.read_text()):
        assert PROVIDER_KEY not in place
        assert PROVIDER_KEY.rpartition("_")[2] not in place
    assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [(True, "Lax")]
    assert list(dashboard.folder.iterdir()) == []


def test_an_empty_service_says_so(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Empty tables tell what would fill them."""
    sign_in(page, dashboard)
    page.wait_for_selector("text=No jobs yet")
    page.wait_for_selector("text=No ownership checks yet")
    page.wait_for_selector("text=All parts ready")
    assert fake.requests


def test_figures_follow_the_service(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Tiles and rows change without a reload; a part that is missing is named."""
    fake.jobs = [fake_api.job(1, "queued", user_provided_suffix="menu")]
    fake.verifications = [fake_api.verification(1), fake_api.verification(2, "not_detected")]
    sign_in(page, dashboard)
    page.wait_for_selector("tr:has-text('menu'):has-text('Queued'):has-text('Harbour Bakery')")
    assert page.inner_text(".tile:has-text('Queued') .tile-value") == "1"
    progress = {
        "stage": "training",
        "step": 40,
        "total_steps": 160,
        "tokens_per_second": 1873.0,
        "eta_seconds": 90,
    }
    fake.jobs[0] |= {"status": "running", "progress": progress}
    row = "tr:has-text('menu'):has-text('Running')"
    page.wait_for_selector(row)
    assert "40 / 160" in page.inner_text(row)
    assert "1 min 30 s" in page.inner_text(row)
    assert float(page.get_attribute(f"{row} progress", "value") or 0) == 0.25
    page.wait_for_selector(".tile:has-text('Detected') .tile-value:has-text('1')")
    fake.checks["serving"] = "missing"
    page.wait_for_selector("text=Not ready: serving")


def test_a_jobs_details(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """The curve is drawn, events are newest first, watermark figures are there, the URL leads back."""
    mark = {"key": "wm-1", "commitment": "ab" * 32, "watermark_rows": 160, "watermark_ratio": 0.113}
    fake.jobs = [fake_api.job(1, "running", user_provided_suffix="menu", watermark=mark)]
    job_id = fake.jobs[0]["id"]
    steps = [fake_api.step_event(10 + step, step, 3 / step) for step in range(1, 251)]
    fake.events[job_id] = [*steps[::-1], fake_api.event(2, "Started"), fake_api.event(1, "Created")]
    sign_in(page, dashboard)
    page.click("text=menu")
    page.wait_for_selector(".chart canvas")
    page.wait_for_selector(".event:visible:has-text('Created')")
    assert page.locator(".event:visible .event-message").all_inner_texts() == ["Started", "Created"]
    page.check("label:has-text('Every step') input")
    page.wait_for_selector(".event:visible >> nth=0 >> text=Step 250/300")
    assert "11.3 %" in page.inner_text(".sheet")
    assert page.url.endswith(f"/?job={job_id}")
    page.reload()
    page.wait_for_selector(".sheet .chart canvas")
    page.keyboard.press("Escape")
    page.wait_for_url(dashboard.url + "/")


def test_the_keyboard_opens_a_row(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Rows can be reached and opened without a mouse."""
    fake.jobs = [fake_api.job(1, user_provided_suffix="menu")]
    sign_in(page, dashboard)
    page.focus(".row-open:visible")
    page.keyboard.press("Enter")
    page.wait_for_selector(".sheet:visible")
    assert "menu" in page.inner_text(".sheet:visible")


def test_a_failure_is_told_well(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Whose fault, which code, what to do."""
    error = {
        "code": "out_of_memory", "message": "The machine ran out of memory.", "param": None,
        "category": "capacity", "hint": "Lower batch_tokens.",
    }  # fmt: skip
    fake.jobs = [fake_api.job(1, "failed", error=error)]
    sign_in(page, dashboard)
    page.click(".row-open:visible")
    text = page.inner_text(".sheet [role=alert]:visible")
    assert "memory" in text
    assert "out_of_memory" in text
    assert "Lower batch_tokens." in text


def test_cancel_asks_first(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Nothing is sent before the confirmation; afterwards the page says that it is on its way."""
    fake.jobs = [fake_api.job(1, "running", user_provided_suffix="menu")]
    sign_in(page, dashboard)
    page.click("text=menu")
    page.click("text=Cancel job")
    page.click("text=Keep it running")
    page.wait_for_selector(".confirm", state="hidden")
    assert not fake.jobs[0]["cancel_requested"]
    page.click("text=Cancel job")
    page.click("text=Cancel the job")
    page.wait_for_selector(".sheet button:disabled:has-text('Cancelling')")
    assert fake.jobs[0]["cancel_requested"]
    fake.jobs[0]["status"] = "cancelled"
    page.wait_for_selector(".sheet .badge:has-text('Cancelled')")
    assert not page.is_visible(".sheet .danger")


def test_a_cancel_that_comes_too_late_says_so(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """The API's refusal is shown."""
    fake.jobs = [fake_api.job(1, "running", user_provided_suffix="menu")]
    sign_in(page, dashboard)
    page.click("text=menu")
    page.click("text=Cancel job")
    fake.jobs[0]["status"] = "succeeded"
    page.click("text=Cancel the job")
    page.wait_for_selector("text=already succeeded")
    assert not fake.jobs[0]["cancel_requested"]


def test_a_verdict_and_its_reasons(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Verdict and reasons, figures where the API gives them; a transcript is not shown even then."""
    fake.verifications = [
        fake_api.verification(2, "inconclusive", reasons=["missing_answers"]),
        fake_api.verification(
            1,
            "detected",
            transcript=[{"prompt": "the-secret-prompt"}],
            result={"trigger_hits": 9, "trigger_total": 10, "p_value": "1/4294967296"},
        ),
    ]
    sign_in(page, dashboard)
    row = "tr:has-text('suspect-1')"
    page.wait_for_selector(row)
    assert "Detected" in page.inner_text(row)
    assert "no answer" in page.inner_text("tr:has-text('suspect-2')")
    page.click("text=suspect-1")
    page.wait_for_selector(".sheet:visible")
    assert "9 of 10" in page.inner_text(".sheet:visible")
    assert "10⁻¹⁰" in page.inner_text(".sheet:visible")
    assert "Not answered" not in page.inner_text(".sheet:visible")
    assert "the-secret-prompt" not in page.content()


def test_a_sequential_audit_grows_mark_by_mark(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """The curve and its figures follow the API; at the end the verdict takes over."""
    fake.verifications = [fake_api.sequential(1, None)]
    sign_in(page, dashboard)
    page.click("text=suspect-1")
    page.wait_for_selector("text=The curve appears with the first completed mark.")
    fake.verifications = [fake_api.sequential(1, None, "11.4", "130", "1.48e+03")]
    page.wait_for_selector(".sheet .chart canvas")
    page.wait_for_selector(".sheet .panel-head :text('1\N{THIN SPACE}480 of 2')")
    assert "of 2 \N{MULTIPLICATION SIGN} 10⁶" in page.inner_text(".sheet:visible")
    assert "evidence 1" in page.inner_text("tr:has-text('suspect-1')")
    fake.verifications = [fake_api.sequential(1, "detected", "11.4", "130", "1.48e+03", "2.40e+06")]
    page.wait_for_selector(".sheet .verdict:has-text('Detected')")
    assert "2.4 \N{MULTIPLICATION SIGN} 10⁶" in page.inner_text(".sheet:visible")


@pytest.mark.parametrize(
    ("status", "badge", "words"),
    [
        ("awaiting_nonce", "Awaiting nonce", "has not shown it yet"),
        ("paused", "Paused", "go on where it stopped"),
    ],
)
def test_waiting_is_told_in_words(
    page: Page, dashboard: Dashboard, fake: FakeApi, status: str, badge: str, words: str
) -> None:
    """What is waited for, and by whom it can be ended."""
    fake.verifications = [fake_api.sequential(1, None, "11.4", status=status)]
    sign_in(page, dashboard)
    page.wait_for_selector(f"tr:has-text('suspect-1') .badge:has-text('{badge}')")
    page.click("text=suspect-1")
    page.wait_for_selector(f".sheet:visible :text('{words}')")
    assert words in page.inner_text(".sheet:visible")


def test_a_campaign_shows_its_audits_and_holms_rule(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """First who is still asked, and when all have ended the steps, where the API tells them."""
    first, second = fake_api.verification(1), fake_api.verification(2, None)
    fake.verifications = [second, first]
    fake.campaigns = [fake_api.campaign(1, [first, second])]
    sign_in(page, dashboard)
    page.click(".row-open:has-text('suspect-1')")
    page.wait_for_selector(".sheet table:visible :text('suspect-2')")
    assert "Suspect 1 of 2" in page.inner_text(".sheet:visible")
    page.wait_for_selector("text=when all of them have ended")
    second |= {"status": "succeeded", "verdict": "not_detected"}
    fake.campaigns[0]["holm"] = [
        {"verification": first["id"], "p_value": "1.00e-09", "threshold": "2.50e-07", "detected": True},
        {"verification": second["id"], "p_value": "0.5", "threshold": "5.00e-07", "detected": False},
    ]
    page.wait_for_selector("text=Holm's rule: from the smallest")
    text = page.inner_text(".sheet table:visible")
    assert "2.5 \N{MULTIPLICATION SIGN} 10⁻⁷" in text
    assert "not detected" in text
    before = len(fake.requests)
    page.wait_for_timeout(3000)
    assert not [path for _, path in fake.requests[before:] if "campaigns" in path]


def test_a_campaign_that_is_gone_leaves_the_audit(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Its refusal is told in the panel."""
    lost = fake_api.verification(1)
    fake_api.campaign(1, [lost])
    fake.verifications = [lost]
    sign_in(page, dashboard)
    page.click(".row-open:has-text('suspect-1')")
    page.wait_for_selector("text=The campaign can't be shown")
    assert "Detected" in page.inner_text(".sheet:visible")


def test_hostile_text_is_inert(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """Markup, template and script in any string of an owner, a suspect or the API is shown as text."""
    error = {"code": HOSTILE, "message": HOSTILE, "param": HOSTILE}
    fake.organizations[0]["name"] = HOSTILE
    fake.jobs = [
        fake_api.job(
            1,
            "failed",
            user_provided_suffix=HOSTILE,
            model=HOSTILE,
            error=error,
            fine_tuned_model=HOSTILE,
            watermark={"key": HOSTILE, "commitment": HOSTILE},
            progress={"stage": HOSTILE},
        )
    ]
    fake.events[fake.jobs[0]["id"]] = [
        fake_api.event(1, HOSTILE, level=HOSTILE),
        fake_api.event(2, HOSTILE, type="metrics", data={"step": HOSTILE}),
    ]
    suspect = {"base_url": f"http://{HOSTILE}/", "model": HOSTILE, "api": HOSTILE}
    fake.verifications = [
        fake_api.verification(1, HOSTILE, suspect=suspect, reasons=[HOSTILE], status=HOSTILE)
    ]
    sign_in(page, dashboard)
    page.wait_for_selector(".row-open:visible")
    assert HOSTILE in page.locator(".row-open:visible").first.inner_text()
    page.locator(".row-open:visible").first.click()
    page.wait_for_selector(".sheet:visible")
    page.wait_for_selector(".event:visible")
    page.reload()
    page.wait_for_selector(".event:visible")
    page.keyboard.press("Escape")
    page.wait_for_selector(".sheet", state="hidden")
    page.locator(".row-open:visible").nth(1).click()
    page.wait_for_selector(".sheet:visible")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, .sheet img, .sheet script, main script").count() == 0


def test_an_outage_is_told_and_mended(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """The figures stay, with their age; afterwards the page goes on by itself."""
    fake.jobs = [fake_api.job(1, "running", user_provided_suffix="menu")]
    sign_in(page, dashboard)
    page.wait_for_selector("text=menu")
    fake.broken = True
    page.wait_for_selector(".banner:visible")
    assert "What you see is from" in page.inner_text(".banner")
    assert page.is_visible("text=API unreachable")
    assert page.is_visible("text=menu")
    fake.broken = False
    page.click("text=Try now")
    page.wait_for_selector(".banner", state="hidden")


def test_a_tile_narrows_its_table(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """A press shows only those, a second press all; the search does the same by words."""
    fake.jobs = [
        fake_api.job(2, "failed", user_provided_suffix="broken"),
        fake_api.job(1, user_provided_suffix="fine"),
    ]
    sign_in(page, dashboard)
    page.wait_for_selector(".row-open:has-text('fine')")
    page.click(".tile:has-text('Failed')")
    page.wait_for_selector(".row-open:has-text('fine')", state="hidden")
    assert page.is_visible(".row-open:has-text('broken')")
    page.click(".tile:has-text('Failed')")
    page.wait_for_selector(".row-open:has-text('fine')")
    page.fill("input[aria-label='Search jobs']", "nothing like that")
    page.wait_for_selector("text=Nothing matches")


def test_long_lists_have_pages(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """All are reachable, and counted."""
    fake.jobs = [fake_api.job(number) for number in range(230, 0, -1)]
    sign_in(page, dashboard)
    page.wait_for_selector(".tile:has-text('Succeeded') .tile-value:has-text('230')")
    page.click("text=Older")
    page.wait_for_selector(".row-open:visible:has-text('suffix-220')")
    assert page.locator(".row-open:visible").count() == 10


def test_signing_out_ends_every_tab(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """The other tab leaves too, and the cookie's session is gone."""
    sign_in(page, dashboard)
    page.wait_for_selector("text=All parts ready")
    other = page.context.new_page()
    other.goto(dashboard.url + "/")
    other.wait_for_selector("text=All parts ready")
    cookies = page.context.cookies()
    page.click("text=Sign out")
    page.wait_for_selector("text=You are signed out.")
    other.wait_for_selector("#key")
    page.context.add_cookies([{k: c[k] for k in ("name", "value", "domain", "path")} for c in cookies])  # type: ignore[misc]
    page.goto(dashboard.url + "/")
    assert urlsplit(page.url).path == "/sign-in"
    assert fake.requests


def test_a_revoked_key_ends_the_session(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """The page leaves by itself and says why."""
    sign_in(page, dashboard)
    page.wait_for_selector("text=All parts ready")
    fake.keys.clear()
    page.wait_for_selector("text=Your session has ended")
    assert urlsplit(page.url).path == "/sign-in"


def test_a_request_from_another_site_is_refused(dashboard: Dashboard, fake: FakeApi) -> None:
    """Another page can't sign a browser in with a key of its own choice."""
    with httpx2.Client(trust_env=False) as client:
        answer = client.post(
            dashboard.url + "/sign-in",
            content=f"key={PROVIDER_KEY}",
            headers={"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "cross-site"},
        )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert fake.keys


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, dashboard: Dashboard, fake: FakeApi) -> None:
    """At 360 pixels the rows become cards."""
    long = "a-very-long-suffix-that-an-owner-was-allowed-to-choose-for-it-xx"
    fake.jobs = [fake_api.job(1, "running", user_provided_suffix=long)]
    fake.verifications = [fake_api.verification(1)]
    context = browser.new_context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = context.new_page()
    sign_in(page, dashboard)
    page.wait_for_selector(".row-open:visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".row-open:visible").first.tap()
    page.wait_for_selector(".sheet:visible")
    assert page.evaluate("document.querySelector('.sheet').scrollWidth") <= 360
    context.close()


def test_the_theme_is_kept(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """A choice of dark survives a reload."""
    sign_in(page, dashboard)
    page.wait_for_selector("text=All parts ready")
    page.click("text=System")
    page.click("text=Light")
    page.wait_for_selector("body.body--dark")
    page.wait_for_function("document.cookie.includes('doublei_theme=dark')")
    page.reload()
    page.wait_for_selector("body.body--dark")
    assert fake.requests


def test_nobody_looking_means_no_requests(page: Page, dashboard: Dashboard, fake: FakeApi) -> None:
    """A few seconds after the last tab closed, the API is left alone."""
    sign_in(page, dashboard)
    page.wait_for_selector("text=All parts ready")
    page.goto("about:blank")
    deadline = time.monotonic() + 20
    while True:
        before = len(fake.requests)
        time.sleep(2.5)
        if len(fake.requests) == before:
            break
        assert time.monotonic() < deadline, "still polling"
