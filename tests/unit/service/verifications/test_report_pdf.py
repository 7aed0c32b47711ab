"""The PDF: the same words as the page, any text as text, the same bytes for the same evidence."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typst
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from service.verifications.report import render_pdf
from service.verifications.report.glyphs import RANGES, drawable, has_glyph
from service.verifications.report.pdf import SOURCE
from tests.unit.service.verifications.audits import Answerer, evidence, marked, says
from watermark.questions import SEQUENTIAL

DIGEST = "ab" * 32
HOSTILE = (
    '#panic("x") $x^2$ `raw` <label> @ref \\u{41} *b* _i_ = head // /* #import "@preview/x:1.0.0" '
    '#read("/etc/passwd")'
)


def pdf(answerer: Answerer = marked, *, mode: str = "fixed") -> bytes:
    return render_pdf(evidence(answerer, mode=mode), sha256=DIGEST, families_left=1)


def words(document: bytes) -> str:
    """All text, without regard to where lines break."""
    pages = PdfReader(io.BytesIO(document)).pages
    return "".join(page.extract_text() for page in pages).replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("mode", ["fixed", SEQUENTIAL])
def test_it_says_what_was_decided_on_one_page(mode: str) -> None:
    pages = PdfReader(io.BytesIO(pdf(mode=mode))).pages
    first = pages[0].extract_text()
    assert "detected" in first
    assert "What this does not prove" in first
    assert "doublei evidence check evidence-verif-1.json" in first.replace("\u200b", "")
    assert "Appendix A" in pages[1].extract_text()


def test_the_same_evidence_gives_the_same_bytes() -> None:
    """Also in another process, and the dates in it are the evidence's own."""
    program = (
        "import sys; from tests.unit.service.verifications.test_report_pdf import pdf;"
        "sys.stdout.buffer.write(pdf())"
    )
    root = Path(__file__).parents[4]
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=root).stdout
    assert other == pdf()
    metadata = PdfReader(io.BytesIO(other)).metadata
    assert metadata is not None
    assert str(metadata["/CreationDate"]) == "D:20261123000102Z"


def test_markup_in_an_answer_is_text() -> None:
    """Each of the 208 answers stands there letter for letter; none was compiled, imported or read."""
    found = words(pdf(says(HOSTILE)))
    assert found.count(HOSTILE.replace(" ", "")) >= 208 - 16  # some are cut by the foot of a page


def test_what_the_fonts_lack_is_spelled_out() -> None:
    found = words(pdf(says("Ж ά 你 😀 \u202e")))
    assert "Жά\\u{4f60}\\u{1f600}\\u{202e}" in found


@settings(max_examples=8, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_text_gives_a_document(text: str) -> None:
    assert pdf(says(text), mode=SEQUENTIAL).startswith(b"%PDF")


@pytest.mark.parametrize(
    "text", ["a" * 4000, "\u0301" * 200, "🏳️‍🌈" * 40, "عربي שלום abc", "ﷺ\ufeff", "e\u0301\u0300\u20dd"]
)
def test_text_that_is_hard_to_set_gives_a_document(text: str) -> None:
    assert pdf(says(text), mode=SEQUENTIAL).startswith(b"%PDF")


def test_every_character_that_is_not_spelled_out_has_a_glyph() -> None:
    """The strict profile refuses a missing one."""
    known = [chr(code) for first, last in RANGES for code in range(first, last + 1)]
    printable = [char for char in known if char.isprintable()]
    assert len(printable) > 4000
    source = b"#for c in json(bytes(sys.inputs.data)) [#box(text(font: json(bytes(sys.inputs.fonts)), c)) ]"
    fonts = re.search(r"#set text\(font: \((.*?)\)", SOURCE.read_text())
    assert fonts is not None
    typst.compile(
        source,
        format="pdf",
        sys_inputs={"data": json.dumps(printable), "fonts": f"[{fonts.group(1)}]"},
        ignore_system_fonts=True,
        pdf_standards=["a-2b"],
        timestamp=0,
    )


@given(st.text())
def test_drawable_text_is_drawable(text: str) -> None:
    assert all(char == "\n" or has_glyph(char) for char in drawable(text))


def test_an_api_that_makes_no_pdf_does_not_load_the_typesetter() -> None:
    program = "import sys, service.verifications.report; print('typst' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert out.strip() == "False"
