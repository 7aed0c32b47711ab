"""The web application: sign in, sign out, and the one page behind them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
from fastapi import FastAPI, Request
from nicegui import Client, ui
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from dashboard.api import TIMEOUT, Api
from dashboard.errors import DashboardError, KeyRefused, Unreachable, WrongRole
from dashboard.feed import Feed
from dashboard.headers import SIGN_IN_POLICY, SecurityHeaders
from dashboard.page import Page
from dashboard.sessions import LIFETIME_SECONDS, Sessions
from dashboard.settings import Settings
from dashboard.signin import REASONS, sign_in_page

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "static"
MAX_FORM_BYTES = 4096
THEMES = ("light", "dark")


def create_app(settings: Settings) -> FastAPI:
    """Build the application; NiceGUI allows one a process."""
    http = httpx2.AsyncClient(
        timeout=TIMEOUT,
        # A proxy from the environment must not stand between us and an API on this machine.
        trust_env=urlsplit(settings.api_url).hostname not in ("127.0.0.1", "::1", "localhost"),
        follow_redirects=False,
    )
    sessions = Sessions(settings.secret)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await sessions.close_all()
        await http.aclose()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityHeaders)
    _Routes(settings, sessions, http).attach(app)
    app.mount("/assets", StaticFiles(directory=ASSETS))
    ui.run_with(
        app,
        title="Double-I",
        favicon=ASSETS / "icon.svg",
        dark=None,
        language="en-US",
        binding_refresh_interval=None,
        tailwind=False,
        show_welcome_message=False,
    )
    return app


class _Routes:
    """The handlers, with what they share."""

    def __init__(self, settings: Settings, sessions: Sessions, http: httpx2.AsyncClient) -> None:
        self._settings = settings
        self._sessions = sessions
        self._http = http
        # Cookies know no ports: without the port, two dashboards on one host would sign each other out.
        self._cookie = f"doublei_dashboard_{settings.port}"
        self._version = hashlib.sha256((ASSETS / "dashboard.css").read_bytes()).hexdigest()[:12]

    def attach(self, app: FastAPI) -> None:
        """Register the routes; the page itself belongs to NiceGUI's application."""
        app.add_api_route("/healthz", self.healthz, methods=["GET"])
        app.add_api_route("/sign-in", self.show_sign_in, methods=["GET"], response_model=None)
        app.add_api_route("/sign-in", self.sign_in, methods=["POST"], response_model=None)
        app.add_api_route("/sign-out", self.sign_out, methods=["POST"], response_model=None)

        @ui.page("/")
        def page(request: Request, client: Client, job: str = "", verification: str = "") -> Response | None:
            return self._page(request, client, job, verification)

    async def healthz(self) -> JSONResponse:
        """The dashboard itself is alive; the API's health is on the page."""
        return JSONResponse({"status": "ok"})

    async def show_sign_in(self, request: Request, because: str = "") -> Response:
        """The sign-in page, or the dashboard for who is signed in already."""
        if self._sessions.find(request.cookies.get(self._cookie)) is not None:
            return RedirectResponse("/", status_code=303)
        return self._sign_in_page(request, note=REASONS.get(because))

    async def sign_in(self, request: Request) -> Response:
        """Try the key with the API; keep it in memory if a provider's, and give the browser a cookie."""
        if _is_cross_site(request):
            return self._sign_in_page(request, error="This request came from another site.", status=403)
        key = await _form_key(request)
        if not key:
            return self._sign_in_page(request, error="Enter an API key: it begins with di_.", status=400)
        api = Api(self._http, self._settings.api_url, key)
        try:
            await api.check_provider()
        except KeyRefused:
            return self._sign_in_page(
                request, error="The API does not know this key. Check that all of it was copied.", status=401
            )
        except WrongRole:
            return self._sign_in_page(
                request, error="This key works, but it is not a provider's. Use a provider key.", status=403
            )
        except Unreachable as error:
            return self._sign_in_page(request, error=f"{error.message} Try again in a moment.", status=503)
        except DashboardError as error:
            return self._sign_in_page(request, error=error.message, status=502)
        cookie = await self._sessions.open(Feed(api, poll_seconds=self._settings.poll_seconds))
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            self._cookie,
            cookie,
            max_age=int(LIFETIME_SECONDS),
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    async def sign_out(self, request: Request) -> Response:
        """Forget the key, on all pages of the session."""
        if _is_cross_site(request):
            return RedirectResponse("/", status_code=303)
        session = self._sessions.find(request.cookies.get(self._cookie))
        if session is not None:
            await self._sessions.close(session, "signed_out")
        response = RedirectResponse("/sign-in?because=signed_out", status_code=303)
        response.delete_cookie(self._cookie)
        return response

    def _page(self, request: Request, client: Client, job: str, verification: str) -> Response | None:
        session = self._sessions.find(request.cookies.get(self._cookie))
        if session is None:
            return RedirectResponse("/sign-in", status_code=303)
        page = Page(
            session.feed, client, api_url=self._settings.api_url, theme=_theme(request), version=self._version
        )
        page.build(job_id=job, verification_id=verification)
        return None

    def _sign_in_page(
        self, request: Request, *, error: str | None = None, note: str | None = None, status: int = 200
    ) -> HTMLResponse:
        page = sign_in_page(
            api_url=self._settings.api_url,
            version=self._version,
            theme=_theme(request) or "",
            error=error,
            note=note,
        )
        return HTMLResponse(
            page,
            status_code=status,
            headers={"content-security-policy": SIGN_IN_POLICY, "cache-control": "no-store"},
        )


def _theme(request: Request) -> str | None:
    value = request.cookies.get("doublei_theme")
    return value if value in THEMES else None


def _is_cross_site(request: Request) -> bool:
    """Every browser in use sends Sec-Fetch-Site; what sends none is no browser and has no victim's cookie."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


async def _form_key(request: Request) -> str:
    """The ``key`` field of a small urlencoded form; empty when there is none."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return ""
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=4, strict_parsing=True)
    except ValueError:
        return ""
    key = fields.get("key", [""])[0].strip()
    # Anything else can't be sent in a header, and no key looks like that.
    return key if key.isascii() and key.isprintable() and " " not in key else ""
