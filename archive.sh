#!/usr/bin/env bash
# Packs exports/<name>/<version>/ into model_store/<name>-<version>.mar.
#
#     ./archive.sh              every model that has an export
#     ./archive.sh digits       these models only
#
# Works in a private folder below $TMPDIR and writes nothing else; `marina archive` is the same code.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$here/.venv/bin/python"
if [ ! -x "$python" ]; then
    echo "archive.sh: no environment at $here/.venv; run: make install" >&2
    exit 2
fi
exec "$python" -m marina archive "$@"
