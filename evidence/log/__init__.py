"""A transparency log: what may only be added to, and how anybody notices when more was done to it.

`merkle` hashes and proves (RFC 6962), `note` signs texts and keeps witnesses' cosignatures (C2SP signed-note,
tlog-cosignature), `checkpoint` says how large a log is and what it holds (C2SP tlog-checkpoint), `witness` is
what others are asked to cosign (C2SP tlog-witness), `succession` says which key follows which. No storage
here: service.log keeps a log in Postgres, and whoever checks one needs nothing but these functions.
"""
