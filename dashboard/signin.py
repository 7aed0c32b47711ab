"""The sign-in page: plain HTML without a script, so that the key is never in a page's state."""

from __future__ import annotations

from html import escape
from string import Template

REASONS = {
    "ended": "Your session has ended. Sign in again.",
    "key_refused": "The API no longer accepts the key you were signed in with.",
    "signed_out": "You are signed out.",
}
"""Why a browser was sent here; the URL carries only the code."""

_PAGE = Template("""<!doctype html>
<html lang="en" class="sign-in-page $theme">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in &middot; Double-I</title>
<link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/assets/dashboard.css?v=$version">
</head>
<body>
<main class="sign-in">
<div class="brand"><span class="brand-mark" aria-hidden="true"></span><span>Double-I</span></div>
<h1>Provider dashboard</h1>
<p class="muted">Sign in with a provider API key. It stays in this dashboard's memory until you sign out,
and is not stored in the browser.</p>
$notice
<form method="post" action="/sign-in" autocomplete="off">
<label for="key">API key</label>
<input id="key" name="key" type="password" required autofocus autocomplete="off" autocapitalize="none"
 spellcheck="false" placeholder="di_…" aria-describedby="where">
<button type="submit" class="button primary">Sign in</button>
</form>
<p class="muted small" id="where">A key was written to the credentials file at the service's first start;
a provider makes more with <code>POST /v1/api_keys</code>.</p>
<p class="muted small">API: <code>$api</code></p>
</main>
</body>
</html>
""")


def sign_in_page(
    *, api_url: str, version: str, theme: str, error: str | None = None, note: str | None = None
) -> str:
    """The whole page. ``error`` and ``note`` are escaped here."""
    notice = ""
    if error:
        notice = f'<p class="notice bad" role="alert">{escape(error)}</p>'
    elif note:
        notice = f'<p class="notice" role="status">{escape(note)}</p>'
    return _PAGE.substitute(api=escape(api_url), version=escape(version), theme=escape(theme), notice=notice)
