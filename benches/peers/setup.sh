#!/usr/bin/env bash
# Make the virtual environment of the peer engines beside this script (.venv, ignored by git) from the pinned versions.
# Run again to bring it up to date; PYTHON names another interpreter, best CPython 3.11: the one that has all wheels. What
# cannot be had for a platform is named and left out (run.py then skips the engine): scann is for Linux, diskannpy for
# Linux on x86-64 with CPython 3.9 to 3.11, rabitqlib for 3.11 and later; hnswlib is compiled, which takes a C++ compiler
# and Python's headers. Dependencies are pinned too and not resolved, since diskannpy asks for numpy 1, scann for numpy 2.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"${PYTHON:-python3}" -m venv "$here/.venv"
install() { "$here/.venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$@"; }

if ! install -r "$here/requirements.txt"; then
    echo "not all at once; one after the other:" >&2
    while read -r requirement; do
        install "$requirement" || echo "SKIPPED $requirement: no wheel for this platform, or it does not compile" >&2
    done < "$here/requirements.txt"
fi
"$here/.venv/bin/python" -c 'import numpy' || { echo "no numpy: nothing can be measured without it" >&2; exit 1; }
"$here/.venv/bin/python" - "$here/requirements.txt" <<'PY'
import importlib.metadata as metadata
import sys

for line in open(sys.argv[1]):
    name = line.partition("==")[0].strip()
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "not installed")
PY
