"""Notes, checkpoints and cosignatures: the specification's own examples, and every way to bend them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.errors import NoteInvalid
from evidence.log.checkpoint import Checkpoint, opened, sign, witnessed
from evidence.log.note import Kind, Note, PublicKey, Signature, Signer, verify

ORIGIN = "log.example/double-i"
LOG = Signer(name=ORIGIN, kind=Kind.log, seed=bytes(range(32)))
WITNESS = Signer(name="witness.example/w1", kind=Kind.witness, seed=bytes(range(1, 33)))
CHECKPOINT = Checkpoint(origin=ORIGIN, size=42, root=bytes(range(32)))
NOTE = sign(CHECKPOINT, LOG)


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    assert Note.from_text(str(NOTE)) == NOTE
    assert opened(Note.from_text(str(NOTE)), LOG.public) == CHECKPOINT
    assert Checkpoint.from_text(NOTE.text) == CHECKPOINT
    assert str(NOTE).startswith(f"{ORIGIN}\n42\n{base64.b64encode(bytes(range(32))).decode()}\n\n— {ORIGIN} ")


def test_a_key_as_text_is_read_back() -> None:
    for signer in (LOG, WITNESS):
        assert PublicKey.from_text(str(signer.public)) == signer.public
        assert signer.seed.hex() not in repr(signer)
        assert base64.b64encode(signer.seed).decode() not in repr(signer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000",
        "name+00000000+AQ==",
        str(LOG.public).replace("+", "-"),
        str(LOG.public)[:-4],
        str(LOG.public).replace(LOG.public.key_id.hex(), "00000000"),
        "other" + str(LOG.public),
        f"a b+{LOG.public.key_id.hex()}+{base64.b64encode(bytes([1]) + LOG.public.key).decode()}",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        PublicKey.from_text(text)


def test_a_witness_says_when_it_looked() -> None:
    cosigned = Note(
        text=NOTE.text, signatures=(*NOTE.signatures, WITNESS.sign(NOTE.text, time=1_800_000_000))
    )
    assert witnessed(cosigned, [WITNESS.public]) == {WITNESS.public: 1_800_000_000}
    assert opened(cosigned, LOG.public) == CHECKPOINT
    assert witnessed(NOTE, [WITNESS.public]) == {}


def test_a_witness_can_not_be_moved_to_another_time_or_checkpoint() -> None:
    line = WITNESS.sign(NOTE.text, time=1_800_000_000)
    earlier = Signature(name=line.name, key_id=line.key_id, blob=(5).to_bytes(8, "big") + line.blob[8:])
    other = str(Checkpoint(origin=ORIGIN, size=43, root=CHECKPOINT.root))
    for text, signature in ((NOTE.text, earlier), (other, line)):
        with pytest.raises(NoteInvalid, match="not that key's"):
            witnessed(Note(text=text, signatures=(signature,)), [WITNESS.public])


def test_a_logs_key_is_no_witness_and_a_witness_no_log() -> None:
    same = Signer(name=ORIGIN, kind=Kind.witness, seed=LOG.seed)
    assert verify(NOTE, [same.public]) == {}
    with pytest.raises(NoteInvalid, match="not signed by"):
        opened(Note(text=NOTE.text, signatures=(same.sign(NOTE.text, time=1),)), LOG.public)
    with pytest.raises(ValueError, match="its own log"):
        sign(CHECKPOINT, Signer(name="other.example", kind=Kind.log, seed=LOG.seed))


def test_a_checkpoint_under_another_key_or_of_another_log_is_refused() -> None:
    stranger = Signer(name=ORIGIN, kind=Kind.log, seed=bytes(32))
    with pytest.raises(NoteInvalid, match="not signed by"):
        opened(NOTE, stranger.public)
    text = str(Checkpoint(origin="other.example", size=1, root=bytes(32)))
    with pytest.raises(NoteInvalid, match=r"is of other\.example"):
        opened(Note(text=text, signatures=(LOG.sign(text),)), LOG.public)


@pytest.mark.parametrize("place", range(len(str(NOTE).encode())))
def test_no_byte_of_a_signed_checkpoint_can_be_changed(place: int) -> None:
    data = bytearray(str(NOTE).encode())
    data[place] ^= 0x01
    try:
        found = opened(Note.from_text(data.decode()), LOG.public)
    except (NoteInvalid, UnicodeDecodeError):
        return
    pytest.fail(f"byte {place} changed, and it is still {found}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        NOTE.text,
        f"{NOTE.text}\n",
        str(NOTE).removesuffix("\n"),
        str(NOTE) + "\n",
        str(NOTE).replace("— ", "- "),
        str(NOTE).replace("\n\n", "\n\n\r\n"),
        f"{NOTE.text}\n— {ORIGIN} AAAA\n",
        f"{NOTE.text}\n— {ORIGIN} AAAAAA=\n",
        f"{NOTE.text}\n— {ORIGIN} not base64!\n",
        f"{NOTE.text}\n" + f"{NOTE.signatures[0]}\n" * 65,
        "a" * 70_000 + str(NOTE),
    ],
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        Note.from_text(text)


@pytest.mark.parametrize(
    "text",
    ["\n1\nAAAA\n", f"{ORIGIN}\n042\n{'A' * 43}=\n", f"{ORIGIN}\n-1\n{'A' * 43}=\n", f"{ORIGIN}\n1\nAAAA\n",
     f"{ORIGIN}\n1\n{'A' * 43}=", f"{ORIGIN}\n1\n{'A' * 43}=\nmore\n", f"{ORIGIN}\n1\n{'A' * 42}B=\n",
     f"{ORIGIN}\n1e3\n{'A' * 43}=\n", f"{ORIGIN}\n{'9' * 30}\n{'A' * 43}=\n"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        Checkpoint.from_text(text)


def test_the_specifications_example_reads_and_its_key_ids_are_derived_as_it_says() -> None:
    """C2SP tlog-cosignature shows this note; its private keys are not published, its form is."""
    example = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzG"
        "ku9nTo+zyWE+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1n"
        "PZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    note = Note.from_text(example)
    assert Checkpoint.from_text(note.text).size == 20852163
    log, witness = note.signatures
    assert (len(log.blob), len(witness.blob)) == (64, 72)
    assert int.from_bytes(witness.blob[:8], "big") == 1679315147
    assert str(note) == example


@given(st.text(max_size=300))
def test_no_text_makes_reading_a_note_or_key_crash(text: str) -> None:
    for read in (Note.from_text, Checkpoint.from_text, PublicKey.from_text):
        try:
            made = read(text)
        except NoteInvalid:
            continue
        assert isinstance(made, PublicKey) or str(made) == text
