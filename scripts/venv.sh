#!/bin/sh
# Makes .venv when it is missing or stale; says nothing and returns at once when it is fresh.
#
# Three stamps, so that only what changed is done again:
#   base     interpreter, this folder, pip, torch build   -> the environment is made anew
#   lock     requirements.lock                            -> packages are brought to the lock
#   project  pyproject.toml, this script                  -> the editable install is refreshed
#
# PYTHON       interpreter to use (default: the first of python3.11, python3, ... that will do)
# TORCH_SPEC   what pip installs as torch (default torch==2.13.0), or "installed" to use the torch
#              that PYTHON already has, for instance a CUDA build
# TORCH_INDEX  index to take torch from instead of pip's own
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
PIP_VERSION=26.3
TORCH_SPEC=${TORCH_SPEC:-torch==2.13.0}
TORCH_INDEX=${TORCH_INDEX:-}
LOG=$VENV/setup.log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

fail() {
    echo "setup: $*" >&2
    exit 1
}

version_of() {
    "$1" -c 'import sys; print("%s %d.%d.%d" % ((sys.implementation.name,) + sys.version_info[:3]))' 2>/dev/null
}

usable() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

pick_python() {
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "PYTHON=$PYTHON is $(version_of "$PYTHON"); Python 3.11 or newer is needed"
        usable "$PYTHON" ||
            fail "PYTHON=$PYTHON cannot make environments (no ensurepip); on Debian and Ubuntu install python3-venv"
        return
    fi
    seen=
    for candidate in python3.11 python3 python3.12 python3.13; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if usable "$candidate"; then
            PYTHON=$candidate
            return
        fi
        seen="$seen $candidate ($(version_of "$candidate" || echo 'does not run'))"
    done
    [ -z "$seen" ] && fail "no python3 found; install Python 3.11, or name one: make PYTHON=/path/to/python3.11"
    fail "none of$seen will do: Python 3.11 or newer with ensurepip is needed" \
        "(on Debian and Ubuntu: python3-venv), or name one: make PYTHON=/path/to/python3.11"
}

stamp() { cat "$VENV/stamp.$1" 2>/dev/null || true; }

# The stamp of the environment that is there. A given PYTHON must agree with it.
base_now() {
    interpreter=$("$VENV/bin/python" -c 'import sys; print("%s %d.%d.%d" % ((sys.implementation.name,) + sys.version_info[:3]))' 2>/dev/null) || interpreter=none
    if [ -n "${PYTHON:-}" ] && [ "$interpreter" != none ]; then
        wanted=$(version_of "$PYTHON")
        [ "$wanted" = "$interpreter" ] || interpreter="not $wanted"
    fi
    echo "$interpreter|$(pwd -P)|pip $PIP_VERSION|$TORCH_SPEC|$TORCH_INDEX"
}

[ -z "${PYTHON:-}" ] || version_of "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON does not run"
lock_now=$(sha256sum < requirements.lock)
project_now=$(cat pyproject.toml scripts/venv.sh | sha256sum)
fresh() {
    [ "$(stamp base)" = "$(base_now)" ] && [ "$(stamp lock)" = "$lock_now" ] && [ "$(stamp project)" = "$project_now" ]
}
fresh && exit 0

# One set-up at a time: `make test` beside `make demo` waits here, then finds the work done.
if [ -z "${DOUBLEI_SETUP_LOCKED:-}" ] && command -v flock >/dev/null 2>&1; then
    DOUBLEI_SETUP_LOCKED=1 exec flock .venv.lock sh scripts/venv.sh
fi

# Runs one step with its output in the log: a moving line on a terminal, a line per step elsewhere.
# The command is this shell's own child, so an interrupt takes it along.
step() {
    title=$1
    shift
    began=$(date +%s)
    if [ -t 1 ]; then
        "$@" >> "$LOG" 2>&1 &
        job=$!
        trap 'kill $job 2>/dev/null; echo; exit 130' INT TERM
        while kill -0 $job 2>/dev/null; do
            last=$(tail -n 1 "$LOG" 2>/dev/null | tr -cd '[:print:]' | cut -c 1-50)
            printf '\r\033[K  %s  %ds  %s' "$title" $(($(date +%s) - began)) "$last"
            sleep 0.5
        done
        printf '\r\033[K'
        trap - INT TERM
        wait $job && outcome=0 || outcome=$?
    else
        "$@" >> "$LOG" 2>&1 && outcome=0 || outcome=$?
    fi
    if [ $outcome -ne 0 ]; then
        cause=$(grep -E '^ *(ERROR|error|OSError|Error)' "$LOG" | tail -n 1 | cut -c 1-200)
        fail "$title failed${cause:+: $cause} (all of it: $LOG)"
    fi
    echo "  $title  $(($(date +%s) - began))s"
}

if [ "$(stamp base)" != "$(base_now)" ]; then
    pick_python
    echo "setup: making $VENV with $(version_of "$PYTHON") (first time: several minutes, mostly downloading)"
    rm -rf "$VENV"
    mkdir "$VENV"
    : > "$LOG"
    site=
    [ "$TORCH_SPEC" = installed ] && site=--system-site-packages
    step "environment" "$PYTHON" -m venv $site "$VENV"
    step "pip $PIP_VERSION" "$VENV/bin/python" -m pip install "pip==$PIP_VERSION"
    if [ "$TORCH_SPEC" = installed ]; then
        step "the installed torch" "$VENV/bin/python" -c 'import torch; print(torch.__version__)'
    else
        step "$TORCH_SPEC" "$VENV/bin/python" -m pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH_SPEC"
    fi
    base_now > "$VENV/stamp.base"
else
    echo "setup: bringing $VENV up to date"
    rm -f "$VENV/stamp.project"
fi
if [ "$(stamp lock)" != "$lock_now" ]; then
    step "packages of requirements.lock" "$VENV/bin/python" -m pip install --no-deps --require-hashes -r requirements.lock
    echo "$lock_now" > "$VENV/stamp.lock"
fi
# compat: the whole folder is on the path, so a new room needs no new install.
step "double-i itself" "$VENV/bin/python" -m pip install --no-deps --no-build-isolation \
    --config-settings editable_mode=compat --editable .
# With torch from outside, its packages are the outside's business; ours are pinned either way.
[ "$TORCH_SPEC" = installed ] || step "consistency" "$VENV/bin/python" -m pip check
echo "$project_now" > "$VENV/stamp.project"
