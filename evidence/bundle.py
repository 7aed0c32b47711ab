"""The bundle: one evidence file with all that a stranger needs to check it, as one zip with one spelling.

Entries are stored in a fixed order with a fixed time and fixed permissions: the same evidence and key give
the same bytes everywhere, and `read_bundle` takes no other spelling. Layout: docs/evidence-format.md.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files as package_files

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evidence.canonical import canonical_bytes, digest, parse_canonical
from evidence.document import EVIDENCE_DOMAIN, FORMAT, Document
from evidence.dsse import seal
from evidence.errors import EvidenceError, MalformedEvidence
from evidence.log.proof import NONE, Publication
from watermark import banks

EVIDENCE, BANKS, LOG = "evidence.json", "banks.json", "log.json"
COMMITMENT_STAMP, VERDICT_STAMP = "commitment.tsr", "verdict.tsr"
STATEMENT, ENVELOPE, VERIFIER, README = "statement.json", "dsse.json", "verify.py", "README.txt"
COVERED = (EVIDENCE, BANKS, LOG, COMMITMENT_STAMP, VERDICT_STAMP, VERIFIER, README)
"""What the statement names."""
NAMES = (*COVERED[:5], STATEMENT, ENVELOPE, VERIFIER, README)
"""In their order in the zip."""
MAX_BYTES = 2**27
"""Of all files together."""
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:doublei:audit-evidence:v1"

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX, _REGULAR = 3, 0o100644 << 16
_ENCRYPTED = 0x1
_TEXT = """Evidence of one audit of one suspect by Double-I, which marks fine-tuned models with a secret key.

    python3 -I verify.py [--trust KEYS]

decides the audit again from the raw answers, with no connection. It needs Python 3.11 or later, and for
signatures the package cryptography. KEYS has a line for each key that you trust, which you have from somebody
else than the sender of this file: "ed25519 HEX" for who signs bundles, "NAME+ID+BASE64" for the log that the
audit was entered into. Without them the result is "self-consistent only".

Whoever made this bundle could have put anything here, verify.py included. Take verify.py from a place that
you trust, or read it: it has less than 500 lines. The SHA-256 of the copy in here stands in statement.json.

evidence.json    what was fixed beforehand, each question and answer, the opened part of the key, the verdict
banks.json       the word lists that keys and questions are drawn from
log.json         proofs that key, training, plan and verdict are in a log that only grows; {} if in none
commitment.tsr   a timestamp authority's reply (RFC 3161) over that log as it was after the key's commitment
verdict.tsr      and soon after the verdict; empty where there is none. verify.py says how openssl checks them
statement.json   what is signed: the digests of the files, the verdict and its p-value (in-toto)
dsse.json        the signatures over statement.json (DSSE, Ed25519)
verify.py        the check

It does not prove that the suspect sent these answers (HTTP has no signatures: let a second auditor ask
again), that a log which nobody watches shows everybody the same, that no one else had the key, or that
weights were copied: a model trained on leaked marked data answers too. "not_detected" clears nobody.
"""


class BundleError(EvidenceError):
    """Bytes that are no bundle, or evidence that makes none."""

    code = "bundle_invalid"


def banks_file() -> bytes:
    """Every word list that enters the banks' digest, in the digest's order, as canonical JSON."""
    lists = (
        banks.CUE_WORDS,
        banks.DECORATION_FORMS,
        banks.QUESTION_FORMS,
        banks.TOPICS,
        banks.CARRIER_SUBJECTS,
        banks.CARRIER_VERBS,
        banks.CARRIER_OBJECTS,
        banks.CARRIER_ENDINGS,
    )
    return canonical_bytes({"version": banks.BANKS_VERSION, "banks": [list(words) for words in lists]})


def verifier() -> bytes:
    """The standalone check, as it goes into every bundle."""
    return package_files("evidence").joinpath(VERIFIER).read_bytes()


def bundle_name(evidence: bytes) -> str:
    """``evidence-<verification>.zip``.

    Raises:
        NotCanonical, MalformedEvidence: the bytes are no evidence file.
    """
    return f"evidence-{_document(evidence).verification}.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """What others say of an audit: the log, and timestamp authorities."""

    proofs: Publication | None = None
    """None: no log knows of it"""
    commitment_stamp: bytes = b""
    """an authority's reply over the text of the checkpoint nearest the commitment; empty for none"""
    verdict_stamp: bytes = b""
    """the same for the checkpoint nearest the verdict"""


NOT_PUBLISHED = Publishing()


def make_bundle(
    evidence: bytes, *signers: Ed25519PrivateKey, publishing: Publishing = NOT_PUBLISHED
) -> bytes:
    """The zip. The evidence is taken as it is and not checked (`evidence.check.check`); neither are the
    proofs (`evidence.published.check_published`).

    Raises:
        NotCanonical, MalformedEvidence: the bytes are no evidence file.
        BundleError: it is larger than a bundle may be.
    """
    document = _document(evidence)
    files = {
        EVIDENCE: evidence,
        BANKS: banks_file(),
        LOG: NONE if publishing.proofs is None else publishing.proofs.to_bytes(),
        COMMITMENT_STAMP: publishing.commitment_stamp,
        VERDICT_STAMP: publishing.verdict_stamp,
        VERIFIER: verifier(),
        README: _TEXT.encode(),
    }
    files[STATEMENT] = canonical_bytes(statement(document, files))
    files[ENVELOPE] = seal(files[STATEMENT], *signers)
    if sum(map(len, files.values())) > MAX_BYTES:
        raise BundleError(f"a bundle has at most {MAX_BYTES} bytes")
    return _zip(files)


def statement(document: Document, files: Mapping[str, bytes]) -> dict[str, object]:
    """What is signed: an in-toto statement of the files' digests and of what they say."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": sha256(files[name]).hexdigest()}} for name in COVERED
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "verification": document.verification,
            "verdict": document.verdict,
            # a preset of the paper has none
            "p_value": document.decision.get("p_value", ""),
            "p_value_decimal": document.decision.get("p_value_decimal", ""),
            "document_sha256": digest(EVIDENCE_DOMAIN, canonical_bytes(document.to_record())),
            "verifier_sha256": sha256(files[VERIFIER]).hexdigest(),
            "software": dict(document.software),
        },
    }


def looks_like_bundle(data: bytes) -> bool:
    """Whether bytes are to be read as a bundle and not as a bare evidence file."""
    return data.startswith(b"PK") or zipfile.is_zipfile(io.BytesIO(data))


def read_bundle(data: bytes) -> dict[str, bytes]:
    """The files of a bundle by their names, if it is spelled as `make_bundle` spells it.

    Raises:
        BundleError: it is no zip, or has an entry too many, too few, twice, compressed, encrypted, too large
            or under another name, or a byte before, between or behind its entries that does not belong there.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(f"a bundle has at most {MAX_BYTES} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_entries(archive.infolist(), len(data))
            if archive.comment:
                raise BundleError("the zip has a comment")
            files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except BundleError:
        raise
    except Exception:  # zipfile raises many kinds of errors at a hostile file
        raise BundleError("not a zip, or a damaged one") from None
    if _zip(files) != data:
        raise BundleError("bytes before, between or behind the entries, or another spelling than a bundle's")
    return files


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    for entry in entries:
        if "/" in entry.filename or "\\" in entry.filename or entry.filename in (".", ".."):
            raise BundleError("an entry leads out of the folder")
        if names.count(entry.filename) > 1:
            raise BundleError(f"two entries have the name {entry.filename[:40]!r}")
        if entry.filename not in NAMES:
            raise BundleError(f"an entry has the unknown name {entry.filename[:40]!r}")
        if entry.flag_bits & _ENCRYPTED:
            raise BundleError(f"{entry.filename} is encrypted")
        # a stored entry can't be larger than the zip: nothing ever swells
        if entry.file_size > size:
            raise BundleError(f"{entry.filename} claims to be larger than the bundle")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise BundleError(f"{entry.filename} is compressed")
    for name in NAMES:
        if name not in names:
            raise BundleError(f"{name} is missing")


def _zip(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in NAMES:
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.create_system, entry.external_attr = _UNIX, _REGULAR
            archive.writestr(entry, files[name])
    return out.getvalue()


def _document(evidence: bytes) -> Document:
    value = parse_canonical(evidence)
    if not isinstance(value, dict) or value.get("format") != FORMAT or "document" not in value:
        raise MalformedEvidence(f"not an evidence file of the format {FORMAT}")
    return Document.from_record(value["document"])
