"""The zip: one spelling, and nothing else is taken."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evidence import bundle, verify
from evidence.bundle import (
    BANKS,
    COVERED,
    ENVELOPE,
    EVIDENCE,
    NAMES,
    README,
    STATEMENT,
    VERIFIER,
    BundleError,
    banks_file,
    bundle_name,
    looks_like_bundle,
    make_bundle,
    read_bundle,
)
from evidence.canonical import canonical_bytes
from evidence.comparison import compare
from evidence.errors import EvidenceError
from evidence.trust import Trust
from watermark.banks import BANKS_DIGEST, BANKS_VERSION
from watermark.decision import rule_record
from watermark.prf import digest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_the_same_evidence_and_key_give_the_same_bytes(audit: Any) -> None:
    made = make_bundle(audit.data, KEY)
    assert made == make_bundle(audit.data, KEY)
    assert made != make_bundle(audit.data)
    assert bundle_name(audit.data) == "evidence-verif-1.zip"
    assert looks_like_bundle(made)
    assert not looks_like_bundle(audit.data)


def test_the_files_are_those_of_the_format(audit: Any) -> None:
    files = read_bundle(make_bundle(audit.data, KEY))
    assert tuple(files) == NAMES
    assert files[EVIDENCE] == audit.data
    assert files[VERIFIER] == Path(verify.__file__).read_bytes()
    assert b"does not prove" in files[README]
    statement = json.loads(files[STATEMENT])
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {item["name"]: item["digest"]["sha256"] for item in statement["subject"]} == {
        name: sha256(files[name]).hexdigest() for name in COVERED
    }
    assert statement["predicate"]["verdict"] == "detected"
    assert statement["predicate"]["p_value"] == audit.document.decision["p_value"]
    assert json.loads(read_bundle(make_bundle(audit.data))[ENVELOPE])["signatures"] == []


def test_entries_have_a_fixed_time_permissions_and_no_compression(audit: Any) -> None:
    with zipfile.ZipFile(io.BytesIO(make_bundle(audit.data))) as archive:
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr == 0o100644 << 16
            assert (entry.compress_type, entry.extra, entry.comment) == (zipfile.ZIP_STORED, b"", b"")


def test_the_word_banks_have_the_digest_of_every_design() -> None:
    value = json.loads(banks_file())
    parts = ["\n".join(words).encode() for words in value["banks"]]
    assert digest("doublei/banks/v1", BANKS_VERSION.encode(), *parts).hex() == BANKS_DIGEST
    assert verify.BANKS == BANKS_DIGEST


def test_the_standalone_check_knows_the_present_decision_rule() -> None:
    assert sha256(canonical_bytes(rule_record())).hexdigest() == verify.RULE


@pytest.mark.parametrize("data", [b"", b"{}", b"PK", b'{"document":{},"format":"doublei-evidence/2"}'])
def test_what_is_no_evidence_makes_no_bundle(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        make_bundle(data)


def test_evidence_that_is_too_large_makes_no_bundle(audit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", len(audit.data))
    with pytest.raises(BundleError, match="at most"):
        make_bundle(audit.data)


def _zipped(
    audit: Any, change: Callable[[list[tuple[str, bytes]]], object] = lambda entries: None, **options: Any
) -> bytes:
    """A zip of a forger: other entries, or written in another way."""
    entries = list(read_bundle(make_bundle(audit.data)).items())
    change(entries)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, data in entries:
            entry = zipfile.ZipInfo(name, date_time=options.get("time", (1980, 1, 1, 0, 0, 0)))
            entry.compress_type = options.get("compression", zipfile.ZIP_STORED)
            entry.create_system, entry.external_attr = 3, options.get("attributes", 0o100644 << 16)
            archive.writestr(entry, data)
        archive.comment = options.get("comment", b"")
    return out.getvalue()


def _flag_encrypted(data: bytes) -> bytes:
    changed = bytearray(data)
    place = data.index(b"PK\x01\x02")
    changed[place + 8] |= 1
    return bytes(changed)


def _claim_size(data: bytes, size: int) -> bytes:
    changed = bytearray(data)
    place = data.index(b"PK\x01\x02")
    changed[place + 24 : place + 28] = size.to_bytes(4, "little")
    return bytes(changed)


HOSTILE: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "nothing": (lambda a: b"", "not a zip"),
    "no zip": (lambda a: a.data, "not a zip"),
    "cut off": (lambda a: make_bundle(a.data)[:-1], "not a zip|bytes before"),
    "trailing byte": (lambda a: make_bundle(a.data) + b"\0", "bytes before|not a zip"),
    "leading byte": (lambda a: b"\0" + make_bundle(a.data), "bytes before"),
    "comment": (lambda a: _zipped(a, comment=b"hello"), "comment"),
    "another time": (lambda a: _zipped(a, time=(2026, 1, 1, 0, 0, 0)), "another spelling"),
    "a link": (lambda a: _zipped(a, attributes=0o120777 << 16), "another spelling"),
    "compressed": (lambda a: _zipped(a, compression=zipfile.ZIP_DEFLATED), "claims to be larger|compressed"),
    "a bomb": (
        lambda a: _zipped(
            a, lambda e: e.__setitem__(-1, (README, bytes(2**24))), compression=zipfile.ZIP_DEFLATED
        ),
        "claims to be larger|compressed",
    ),
    "a claimed size": (lambda a: _claim_size(make_bundle(a.data), 2**31), "claims to be larger"),
    "encrypted": (lambda a: _flag_encrypted(make_bundle(a.data)), "encrypted"),
    "another order": (lambda a: _zipped(a, lambda e: e.reverse()), "another spelling"),
    "missing": (lambda a: _zipped(a, lambda e: e.pop()), "missing"),
    "unknown": (lambda a: _zipped(a, lambda e: e.append(("x", b""))), "unknown name"),
    "zip slip": (lambda a: _zipped(a, lambda e: e.append(("../x", b""))), "out of the folder"),
    "a folder": (lambda a: _zipped(a, lambda e: e.append(("a/verify.py", b""))), "out of the folder"),
    "dots": (lambda a: _zipped(a, lambda e: e.append(("..", b""))), "out of the folder"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_is_refused_by_both(audit: Any, tmp_path: Path, name: str) -> None:
    make, why = HOSTILE[name]
    data = make(audit)
    with pytest.raises(BundleError, match=why):
        read_bundle(data)
    (tmp_path / "hostile.zip").write_bytes(data)
    harmless = {"another time", "a link"}
    # the standalone reader takes the same bytes under another date or mode: neither says anything
    assert verify.main([str(tmp_path / "hostile.zip")]) == (2 if name in harmless else 3)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(audit: Any, tmp_path: Path) -> None:
    data = _zipped(audit, lambda entries: entries.insert(1, (EVIDENCE, b"{}")))
    with pytest.raises(BundleError, match="two entries"):
        read_bundle(data)
    (tmp_path / "two.zip").write_bytes(data)
    assert verify.main([str(tmp_path / "two.zip")]) == 3


def test_flipping_a_bit_of_the_zips_own_bytes_never_passes(audit: Any) -> None:
    """Headers and directory; the files' bytes are the statement's business."""
    honest = make_bundle(audit.data)
    directory = honest.index(b"PK\x01\x02")
    for place in [*range(30), *range(directory, len(honest))]:
        changed = bytearray(honest)
        changed[place] ^= 1 << place % 8
        with pytest.raises(BundleError):
            read_bundle(bytes(changed))


def test_a_disagreement_is_a_failure(audit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = read_bundle(make_bundle(audit.data))
    honest = verify.audit(files, {}, {})

    def lenient(*given: object) -> dict[str, Any]:
        return honest

    assert compare(files, Trust()).exit_status == 2
    monkeypatch.setattr(verify, "audit", lenient)
    forged = files | {EVIDENCE: files[EVIDENCE].replace(b'"detected"', b'"not_detected"')}
    both = compare(forged, Trust())
    assert both.exit_status == 1
    assert "our check fails" in both.disagreements[0]
    monkeypatch.setattr(verify, "audit", lambda *given: honest | {"p_value": "1/2"})
    assert compare(files, Trust()).disagreements == ("they have another verdict or p",)


def test_another_verifier_inside_is_named_and_not_run(audit: Any) -> None:
    files = read_bundle(make_bundle(audit.data))
    assert compare(files, Trust()).own_verifier
    assert not compare(files | {VERIFIER: b"raise SystemExit(0)"}, Trust()).own_verifier
    assert compare(files | {BANKS: b"{}"}, Trust()).exit_status == 1
