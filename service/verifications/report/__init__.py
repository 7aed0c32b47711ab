"""The evidence of one audit as a page and as a PDF that a person reads. Functions of the evidence's bytes."""

from __future__ import annotations

from service.verifications.report.page import html_page
from service.verifications.report.view import view_of


def render(evidence: bytes, *, sha256: str, families_left: int) -> str:
    """The HTML page. Everything that the suspect or a user wrote is escaped and shown without control
    characters.

    Args:
        evidence: the exact bytes that this service wrote; they are trusted here, not checked.
        sha256: of these bytes.
        families_left: how many families of the key no audit has asked about yet.
    """
    return html_page(view_of(evidence, sha256=sha256, families_left=families_left))


def render_pdf(evidence: bytes, *, sha256: str, families_left: int) -> bytes:
    """The same as a PDF. The same arguments give the same bytes."""
    from service.verifications.report.pdf import pdf_document

    return pdf_document(view_of(evidence, sha256=sha256, families_left=families_left))
