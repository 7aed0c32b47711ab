"""The tables. Statuses are text with a CHECK; times are timestamptz from the database's clock."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.jobs.lifecycle import JobStatus
from service.verifications.lifecycle import Verdict, VerificationStatus

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def _one_of(column: str, values: type[JobStatus] | type[VerificationStatus] | type[Verdict]) -> str:
    return f"{column} IN (" + ", ".join(f"'{value}'" for value in values) + ")"


class Base(DeclarativeBase):
    """Root of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


class Organization(Base):
    """A tenant: a business owner, the provider itself, or an auditor."""

    __tablename__ = "organizations"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    """owner, provider or auditor: the role its keys have."""
    created_at: Mapped[datetime] = _now()
    __table_args__ = (CheckConstraint("role IN ('owner','provider','auditor')", name="role"),)


class ApiKey(Base):
    """A bearer key. Only the SHA-256 of its 256-bit secret is stored."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    role: Mapped[str]
    name: Mapped[str]
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = _now()
    revoked_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("role IN ('owner','provider','auditor','inference')", name="role"),)


class File(Base):
    """An uploaded dataset; its bytes lie in content-addressed storage under ``sha256``."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    purpose: Mapped[str]
    filename: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    validation: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()
    deleted_at: Mapped[datetime | None]
    __table_args__ = (Index("ix_files_organization_id_created_at", "organization_id", "created_at"),)


class WatermarkKey(Base):
    """A key's public commitment and its sealed secret. The row's salt is drawn after the commitment."""

    __tablename__ = "watermark_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    name: Mapped[str]
    origin: Mapped[str]
    """service (we drew the secret), imported, owner-held (we never had it), chosen (the owner picked the
    words), preset (research)."""
    grade: Mapped[str]
    commitment: Mapped[str]
    """hex SHA-256; see watermark.keys."""
    commitment_record: Mapped[dict[str, Any]]
    """root and family commitments, design: what anybody may see."""
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    sealed_secret: Mapped[bytes] = mapped_column(LargeBinary)
    """AES-256-GCM; see service.sealing. Empty where the owner holds the secret, and once it was destroyed."""
    committed_as: Mapped[str | None]
    """The name that the owner's own commitment was made under; None: the organization's id."""
    audits_before: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    """Audits that the imported key file had on record: their shares of alpha are spent."""
    created_at: Mapped[datetime] = _now()
    deleted_at: Mapped[datetime | None]

    @property
    def claimant(self) -> str:
        """Who committed to the key, as its commitment and all evidence say."""
        return self.organization_id if self.committed_as is None else self.committed_as

    __table_args__ = (
        # registering a commitment again gives no second salt to choose from
        Index(
            "uq_watermark_keys_owner_held",
            "organization_id",
            "commitment",
            unique=True,
            postgresql_where="origin = 'owner-held'",
        ),
        CheckConstraint("origin IN ('service','imported','owner-held','chosen','preset')", name="origin"),
        CheckConstraint("grade IN ('committed','self-generated','chosen','research')", name="grade"),
    )


class Grant(Base):
    """An owner's permission for one auditor to ask named suspects with one key."""

    __tablename__ = "grants"
    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("watermark_keys.id"), index=True)
    auditor_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    suspect_hosts: Mapped[list[Any]]
    """host:port strings; a suspect anywhere else is refused."""
    probe_budget: Mapped[int]
    """questions in all that this grant may send; reserved at pre-registration."""
    probes_reserved: Mapped[int] = mapped_column(default=0, server_default="0")
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()


class Job(Base):
    """A fine-tuning job: the record that a Celery message only points at."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    status: Mapped[str]
    stage: Mapped[str | None]
    """loading, embedding, waiting (for the device), training, exporting: finer than the wire's statuses."""
    base_model: Mapped[str]
    suffix: Mapped[str | None]
    seed: Mapped[int] = mapped_column(BigInteger)
    training_file_id: Mapped[str] = mapped_column(ForeignKey("files.id"))
    validation_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    hyperparameters: Mapped[dict[str, Any]]
    method: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    watermark_key_id: Mapped[str | None] = mapped_column(ForeignKey("watermark_keys.id"))
    watermark_options: Mapped[dict[str, Any] | None]
    watermark_report: Mapped[dict[str, Any] | None]
    progress: Mapped[dict[str, Any] | None]
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[dict[str, Any] | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False, server_default="false")
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default="false")
    """of a running job: its worker is to stop after one more checkpoint."""
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    max_attempts: Mapped[int] = mapped_column(default=3, server_default="3")
    lease_owner: Mapped[str | None]
    lease_epoch: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    estimated_finish: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint(_one_of("status", JobStatus), name="status"),
        Index("ix_jobs_organization_id_created_at", "organization_id", "created_at"),
        Index(
            "ix_jobs_claimable",
            "status",
            "lease_expires_at",
            postgresql_where="status IN ('queued','running')",
        ),
    )


class JobEvent(Base):
    """Append-only: what the owner and the dashboard read."""

    __tablename__ = "job_events"
    seq: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    level: Mapped[str]
    type: Mapped[str]
    """message or metrics, as on OpenAI's wire."""
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (
        Index("ix_job_events_job_id_seq", "job_id", "seq"),
        CheckConstraint("level IN ('info','warn','error')", name="level"),
        CheckConstraint("type IN ('message','metrics')", name="type"),
    )


class TrainingState(Base):
    """What a later run of an unfinished job can go on from: a file of the run that wrote it."""

    __tablename__ = "training_states"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    lease_epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    path: Mapped[str]
    """relative to the storage folder; its name holds the file's SHA-256."""
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = _now()


class Checkpoint(Base):
    """The model as it was at the end of an epoch. It can be used once a model names it."""

    __tablename__ = "checkpoints"
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    lease_epoch: Mapped[int] = mapped_column(BigInteger)
    """of the run that made it."""
    step: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    adapter_path: Mapped[str]
    """relative to the storage folder."""
    manifest: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (UniqueConstraint("job_id", "step"),)


class Model(Base):
    """A published fine-tuned model; its adapter lies in storage."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)
    """ft:<base>:<organization>:<suffix>:<id>, and of a checkpoint :ckpt-step-<step> after it"""
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))
    """None: the job's result."""
    base_model: Mapped[str]
    adapter_path: Mapped[str]
    """relative to the storage folder."""
    manifest: Mapped[dict[str, Any]]
    """file name -> SHA-256 of every file of the adapter."""
    created_at: Mapped[datetime] = _now()
    deleted_at: Mapped[datetime | None]
    __table_args__ = (
        # one result, and one model of each checkpoint
        UniqueConstraint("job_id", "checkpoint_id", postgresql_nulls_not_distinct=True),
    )


class Verification(Base):
    """One audit of one suspect with one key. Its status is not its verdict."""

    __tablename__ = "verifications"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    """who asked: the key's owner or a granted auditor."""
    key_id: Mapped[str] = mapped_column(ForeignKey("watermark_keys.id"), index=True)
    grant_id: Mapped[str | None] = mapped_column(ForeignKey("grants.id"))
    status: Mapped[str]
    suspect: Mapped[dict[str, Any]]
    """base_url, model, api; never a credential."""
    sealed_credential: Mapped[bytes | None] = mapped_column(LargeBinary)
    sealed_opening: Mapped[bytes | None] = mapped_column(LargeBinary)
    """One opened family of a key that its owner holds, for as long as the audit lasts."""
    plan: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any] | None]
    verdict: Mapped[str | None]
    reasons: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False, server_default="false")
    campaign_id: Mapped[str | None] = mapped_column(ForeignKey("campaigns.id"), index=True)
    sitting_started_at: Mapped[datetime | None]
    """when the asking was last taken up by request; the plan's time limit counts from here."""
    conclude_requested: Mapped[bool] = mapped_column(default=False, server_default="false")
    """decide from what has been asked; ask nothing more."""
    attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    max_attempts: Mapped[int] = mapped_column(default=3, server_default="3")
    lease_owner: Mapped[str | None]
    lease_epoch: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint(_one_of("status", VerificationStatus), name="status"),
        CheckConstraint("verdict IS NULL OR " + _one_of("verdict", Verdict), name="verdict"),
        Index("ix_verifications_organization_id_created_at", "organization_id", "created_at"),
        Index(
            "ix_verifications_claimable",
            "status",
            "lease_expires_at",
            postgresql_where="status IN ('queued','running')",
        ),
    )


class Preregistration(Base):
    """What was fixed before the first question. INSERT-only."""

    __tablename__ = "preregistrations"
    verification_id: Mapped[str] = mapped_column(ForeignKey("verifications.id"), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("watermark_keys.id"))
    audit_index: Mapped[int]
    """i of alpha_i: how many audits of this key were pre-registered so far, this one included. The
    suspects of a campaign share one."""
    campaign_position: Mapped[int] = mapped_column(default=0, server_default="0")
    """which of a campaign's suspects; 0 without a campaign."""
    service_nonce: Mapped[bytes] = mapped_column(LargeBinary)
    """its commitment is among the canonical bytes; shown with the evidence."""
    canonical_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    sha256: Mapped[str]
    created_at: Mapped[datetime] = _now()
    __table_args__ = (UniqueConstraint("key_id", "audit_index", "campaign_position"),)


class Campaign(Base):
    """Several suspects under one number of a key, decided together by Holm's rule. INSERT-only."""

    __tablename__ = "campaigns"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"), index=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("watermark_keys.id"), index=True)
    audit_index: Mapped[int]
    size: Mapped[int]
    alpha_i: Mapped[str]
    """the whole campaign's share of alpha, "numerator/denominator"."""
    created_at: Mapped[datetime] = _now()


class NonceReveal(Base):
    """The auditor's nonce, shown after the service had committed to its own. INSERT-only."""

    __tablename__ = "nonce_reveals"
    verification_id: Mapped[str] = mapped_column(ForeignKey("verifications.id"), primary_key=True)
    auditor_nonce: Mapped[bytes] = mapped_column(LargeBinary)
    beacon: Mapped[dict[str, Any] | None]
    """source, round, value of a public beacon, as the auditor gave it."""
    created_at: Mapped[datetime] = _now()


class VerificationLook(Base):
    """A sequential audit's product of e-values after one completed mark. INSERT-only."""

    __tablename__ = "verification_looks"
    verification_id: Mapped[str] = mapped_column(ForeignKey("verifications.id"), primary_key=True)
    look: Mapped[int] = mapped_column(Integer, primary_key=True)
    """1, 2, … in the order in which the marks were asked."""
    mark: Mapped[int]
    e_value: Mapped[str]
    product: Mapped[str]
    """decimal text, as in the decision record."""
    created_at: Mapped[datetime] = _now()


class ProbeSent(Base):
    """Written before a question leaves. INSERT-only."""

    __tablename__ = "probes_sent"
    verification_id: Mapped[str] = mapped_column(ForeignKey("verifications.id"), primary_key=True)
    probe_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    request_body: Mapped[bytes] = mapped_column(LargeBinary)
    """the exact body bytes; the credential travels in a header and is not here."""
    sent_at: Mapped[datetime] = _now()


class ProbeAnswer(Base):
    """What came back, or how it failed. INSERT-only."""

    __tablename__ = "probe_answers"
    verification_id: Mapped[str] = mapped_column(ForeignKey("verifications.id"), primary_key=True)
    probe_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    outcome: Mapped[str]
    """answered, or the name of the failure (timeout, refused, not_json, too_large, http_500, …)."""
    http_status: Mapped[int | None]
    text: Mapped[str | None]
    """the answer's text as extracted; NUL-free."""
    response_body: Mapped[bytes | None] = mapped_column(LargeBinary)
    """raw bytes, at most the cap of probe."""
    latency_ms: Mapped[int]
    answered_at: Mapped[datetime] = _now()


class Evidence(Base):
    """The finished record of an audit, byte for byte. INSERT-only."""

    __tablename__ = "evidence"
    verification_id: Mapped[str] = mapped_column(ForeignKey("verifications.id"), primary_key=True)
    canonical_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    sha256: Mapped[str]
    verdict: Mapped[str]
    created_at: Mapped[datetime] = _now()


class AuditEvent(Base):
    """Who did what with whose key, to whom. INSERT-only."""

    __tablename__ = "audit_events"
    seq: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    at: Mapped[datetime] = _now()
    organization_id: Mapped[str]
    """the key's owner, whose trail this is."""
    actor_organization_id: Mapped[str]
    actor_key_id: Mapped[str | None]
    """id of the API key that was used; None for what the service did by itself."""
    action: Mapped[str]
    key_id: Mapped[str | None]
    grant_id: Mapped[str | None]
    verification_id: Mapped[str | None]
    suspect_host: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    __table_args__ = (
        Index("ix_audit_events_organization_id_seq", "organization_id", "seq"),
        Index("ix_audit_events_actor_organization_id_seq", "actor_organization_id", "seq"),
    )


class LogEntry(Base):
    """One entry of the transparency log: what its leaf hashes, byte for byte. INSERT-only."""

    __tablename__ = "log_entries"
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """0, 1, 2, … without gaps: given under the log's lock."""
    kind: Mapped[str]
    subject: Mapped[str]
    """id of the key, job or verification it is about; not published."""
    entry: Mapped[bytes] = mapped_column(LargeBinary)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary)
    logged_at: Mapped[datetime]
    """as in the entry: the database's clock, which never goes back here."""
    __table_args__ = (
        CheckConstraint("index >= 0", name="index"),
        CheckConstraint("octet_length(leaf_hash) = 32", name="leaf_hash"),
        Index("ix_log_entries_subject_index", "subject", "index"),
    )


class LogNode(Base):
    """A full node of the log's Merkle tree above the leaves. INSERT-only."""

    __tablename__ = "log_nodes"
    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """1 for the parents of leaves; the leaves' own hashes are in `log_entries`."""
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    __table_args__ = (
        CheckConstraint("level > 0", name="level"),
        CheckConstraint("octet_length(hash) = 32", name="hash"),
    )


class LogRecord(Base):
    """What an entry digests. Never published; it may be deleted, never changed."""

    __tablename__ = "log_records"
    index: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("log_entries.index"), primary_key=True, autoincrement=False
    )
    record: Mapped[str]
    """canonical JSON"""


class LogCheckpoint(Base):
    """What the log has signed, one checkpoint a size. INSERT-only."""

    __tablename__ = "log_checkpoints"
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[str]
    created_at: Mapped[datetime] = _now()


class LogTimestamp(Base):
    """A timestamp authority's stamp on a checkpoint's text. INSERT-only."""

    __tablename__ = "log_timestamps"
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """of the checkpoint; what was stamped is its text, so nothing else has to tie the two together"""
    authority: Mapped[str]
    """the address that was asked"""
    reply: Mapped[bytes] = mapped_column(LargeBinary)
    """TimeStampResp (RFC 3161), as it came"""
    stamped_at: Mapped[datetime]
    """as the stamp says"""
    created_at: Mapped[datetime] = _now()


class LogCosignature(Base):
    """What a witness of this log answered to a checkpoint. INSERT-only."""

    __tablename__ = "log_cosignatures"
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """the checkpoint's"""
    witness: Mapped[str] = mapped_column(primary_key=True)
    """its public key, as text"""
    line: Mapped[str]
    """the signature line that stands below the checkpoint"""
    created_at: Mapped[datetime] = _now()


class WitnessedLog(Base):
    """The newest checkpoint of another log that this service has cosigned. Its size never goes back."""

    __tablename__ = "witnessed_logs"
    origin: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    note: Mapped[str]
    """as the log signed it"""
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
    __table_args__ = (
        CheckConstraint("size >= 0", name="size"),
        CheckConstraint("octet_length(root) = 32", name="root"),
    )


class IdempotencyRecord(Base):
    """The answer to a POST, kept so that the same request again gets it again; see service.idempotency."""

    __tablename__ = "idempotency_records"
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    name: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """keyed digest of the caller's Idempotency-Key or, without one, of the request."""
    request: Mapped[bytes] = mapped_column(LargeBinary)
    """keyed digest of method, path, query and body."""
    retry_count: Mapped[int] = mapped_column(default=0, server_default="0")
    """which of its client's tries made the record; 0 is the first."""
    status: Mapped[int | None]
    """of HTTP; None until the deed is done."""
    sealed_answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    subject: Mapped[str | None]
    """id of what the deed made."""
    started_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime] = mapped_column(index=True)
    __table_args__ = (
        Index("ix_idempotency_records_subject", "subject", postgresql_where="subject IS NOT NULL"),
    )


class GarbageCollection(Base):
    """One finished removal of what nobody needs any more; see service.gc."""

    __tablename__ = "garbage_collections"
    seq: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    seconds: Mapped[float] = mapped_column(Double)
    things: Mapped[int] = mapped_column(BigInteger)
    """files and folders that were removed"""
    bytes: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[datetime] = _now()


INSERT_ONLY_TABLES = (
    "preregistrations",
    "probes_sent",
    "probe_answers",
    "evidence",
    "job_events",
    "campaigns",
    "nonce_reveals",
    "verification_looks",
    "audit_events",
    "log_entries",
    "log_nodes",
    "log_checkpoints",
    "log_timestamps",
    "log_cosignatures",
)
"""Tables on which a trigger refuses UPDATE, DELETE and TRUNCATE (the migrations' SQL)."""
