#!/usr/bin/env bash
# Make the virtual environment of the peer engines beside this script (.venv, ignored by git) from the pinned versions.
# Run again to bring it up to date; PYTHON names another interpreter (scann has wheels for Linux, CPython 3.9-3.13).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
"${PYTHON:-python3}" -m venv "$here/.venv"
"$here/.venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
"$here/.venv/bin/python" - <<'PY'
import importlib.metadata as metadata

for name in ("faiss-cpu", "numpy", "scann"):
    print(name, metadata.version(name))
PY
