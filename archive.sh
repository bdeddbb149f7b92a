#!/usr/bin/env bash
# Packs exports/<name>/<version>/ into model_store/<name>-<version>.mar.
#
#     ./archive.sh              every model that has an export
#     ./archive.sh digits       only these models
#
# Runs `marina archive`, which works in a private folder in $TMPDIR and writes nothing else.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$here/.venv/bin/python"
if [ ! -x "$python" ]; then
    echo "archive.sh: no environment at $here/.venv; run: make install" >&2
    exit 2
fi
MARINA_HOME="${MARINA_HOME:-$here}" exec "$python" -m marina archive "$@"
