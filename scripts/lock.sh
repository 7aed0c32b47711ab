#!/bin/sh
# Resolves requirements.in into requirements.lock: exact versions, every file's SHA-256.
# Versions already locked are kept; UPGRADE=1 takes the newest that fit.
# torch takes part in the resolution (so that everything agrees with it) but is not written:
# scripts/venv.sh installs it. UV_FIND_LINKS or UV_INDEX may point at a CPU build of torch, whose
# metadata names no CUDA packages; the script refuses to lock those.
set -eu
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT INT TERM

"${PYTHON:-.venv/bin/python}" -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9
echo "torch==2.13.0" > "$tools/torch.in"
[ -f requirements.lock ] && cp requirements.lock "$tools/requirements.lock"

"$tools/venv/bin/uv" pip compile requirements.in "$tools/torch.in" ${UPGRADE:+--upgrade} \
    --quiet --generate-hashes --no-header --no-annotate --no-emit-package torch \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o "$tools/requirements.lock"

if grep -Eiq '^(nvidia|triton|cuda)' "$tools/requirements.lock"; then
    echo "lock: torch resolved to a CUDA build; point UV_FIND_LINKS at a CPU wheel of it and try again" >&2
    exit 1
fi
# The images' parts, at the same versions.
for name in requirements-api requirements-worker; do
    extra=$tools/torch.in
    [ $name = requirements-api ] && extra=
    "$tools/venv/bin/uv" pip compile $name.in $extra --constraint "$tools/requirements.lock" \
        --quiet --generate-hashes --no-header --no-annotate --no-emit-package torch \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o "$tools/$name.lock"
done

for name in requirements requirements-worker requirements-api; do
    { echo "# Made from $name.in by 'make lock'. Do not edit."; cat "$tools/$name.lock"; } > "$name.lock.new"
    mv "$name.lock.new" "$name.lock"
    echo "$name.lock: $(grep -c '^[A-Za-z0-9]' "$name.lock") packages"
done
