"""The archive: a tar of a manifest with every other member's size and SHA-256, the sealed keys, a dump of the
database and the stored files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from cli.errors import CliError

FORMAT = "doublei-backup/1"
MANIFEST = "manifest.json"
KEYS = "keys.sealed"
DUMP = "database.dump"
STORAGE = "storage"
MAX_HEAD_BYTES = 256 * 1024 * 1024
"""Of a manifest: some 200 bytes a file."""
CHUNK_BYTES = 1 << 20
_MEMBER = re.compile(r"database\.dump|storage(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,254}){1,8}")

Advance = Callable[[int], None]


class ArchiveDamaged(CliError):
    """The archive is not one of ours, incomplete, or changed."""

    code = "archive_damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of the archive."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archive says of itself."""

    created_at: str
    schema: str
    """the database's migration"""
    has_keys: bool
    members: dict[str, Member]

    @property
    def size_bytes(self) -> int:
        """Of all members together."""
        return sum(member.size_bytes for member in self.members.values())

    def to_bytes(self) -> bytes:
        """As it is in the archive; the sealed keys are bound to these bytes."""
        return json.dumps({"format": FORMAT} | asdict(self), sort_keys=True, indent=1).encode()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises: ArchiveDamaged."""
        try:
            record: dict[str, Any] = json.loads(data)
            if record["format"] != FORMAT:
                raise ArchiveDamaged(f"the archive is of another format than {FORMAT}")
            members = {
                str(name): Member(sha256=str(entry["sha256"]), size_bytes=int(entry["size_bytes"]))
                for name, entry in record["members"].items()
            }
            manifest = cls(
                created_at=str(record["created_at"]),
                schema=str(record["schema"]),
                has_keys=bool(record["has_keys"]),
                members=members,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ArchiveDamaged("the archive's manifest can't be read") from None
        for name in manifest.members:
            if not _MEMBER.fullmatch(name) or ".." in name:
                raise ArchiveDamaged("the archive names a file that no backup has")
        if DUMP not in manifest.members:
            raise ArchiveDamaged("the archive has no database")
        return manifest


def digest(path: Path, advance: Advance) -> Member:
    """Size and SHA-256 of a file."""
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            size += len(chunk)
            advance(len(chunk))
    return Member(sha256=sha256.hexdigest(), size_bytes=size)


def write(
    target: IO[bytes], manifest: Manifest, keys: bytes | None, paths: Mapping[str, Path], advance: Advance
) -> None:
    """Everything in order. `paths` are where the members lie."""
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, MANIFEST, manifest.to_bytes())
        if keys is not None:
            _add(archive, KEYS, keys)
        for name, member in manifest.members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = member.size_bytes, 0o600
            with paths[name].open("rb") as file:
                archive.addfile(entry, _Watched(file, advance))


class Reader:
    """An archive being read from its beginning, once."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        """Reads the manifest and the sealed keys.

        Raises:
            ArchiveDamaged: they are not there.
        """
        self._archive = archive
        self.manifest_bytes = self._small(MANIFEST)
        self.manifest = Manifest.parse(self.manifest_bytes)
        self.keys = self._small(KEYS) if self.manifest.has_keys else None

    def extract(self, place: Callable[[str], Path], advance: Advance) -> None:
        """Write every member to its place, and check it.

        Raises:
            ArchiveDamaged: one is missing, there is one too many, or one is not what the manifest says.
        """
        missing = dict(self.manifest.members)
        while (entry := self._next()) is not None:
            member = missing.pop(entry.name, None)
            if member is None or not entry.isreg() or entry.size != member.size_bytes:
                raise ArchiveDamaged("the archive has a member that its manifest does not have")
            self._write(entry, place(entry.name), member, advance)
        if missing:
            raise ArchiveDamaged(f"the archive is cut off: {len(missing)} of its files are missing")

    def _write(self, entry: tarfile.TarInfo, path: Path, member: Member, advance: Advance) -> None:
        source = self._archive.extractfile(entry)
        assert source is not None
        sha256 = hashlib.sha256()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                path.chmod(0o600)
                while chunk := source.read(CHUNK_BYTES):
                    sha256.update(chunk)
                    file.write(chunk)
                    advance(len(chunk))
        except tarfile.TarError:
            raise ArchiveDamaged("the archive is cut off") from None
        if sha256.hexdigest() != member.sha256:
            raise ArchiveDamaged(f"{entry.name} in the archive is not what it was when it was written")

    def _small(self, name: str) -> bytes:
        entry = self._next()
        if entry is None or entry.name != name or not entry.isreg() or entry.size > MAX_HEAD_BYTES:
            raise ArchiveDamaged("this is no backup of doublei, or it is damaged")
        source = self._archive.extractfile(entry)
        assert source is not None
        data = source.read()
        if len(data) != entry.size:
            raise ArchiveDamaged("the archive is cut off")
        return data

    def _next(self) -> tarfile.TarInfo | None:
        try:
            return self._archive.next()
        except tarfile.TarError:
            raise ArchiveDamaged("the archive is damaged or cut off") from None


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Open an archive.

    Raises:
        ArchiveDamaged: it is none.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
            yield Reader(archive)
    except tarfile.ReadError:
        raise ArchiveDamaged(f"{path} is no backup of doublei, or it is damaged") from None
    except OSError as error:
        if error.filename != str(path):
            raise
        raise ArchiveDamaged(f"can't read {path}: {error.strerror}") from None


class _Watched:
    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._advance(len(data))
        return data


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o600
    archive.addfile(entry, io.BytesIO(data))
