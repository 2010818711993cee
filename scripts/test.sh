#!/usr/bin/env bash
# All checks of CI: scripts/test.sh [PYTEST ARGUMENT ...]
# Settings: see the top of scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_project "[test]"
use_venv
cd "$HIPHOP_ROOT"

# Three processes of one thread each: on two cores, since a third of the time is spent waiting for other processes; more
# threads than cores would wait for one another.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

say "ruff"
ruff check . || die "ruff found errors." "It fixes many of them: $HIPHOP_VENV/bin/ruff check --fix ."
ruff format --check . || die "the files above are not formatted." "Run: $HIPHOP_VENV/bin/ruff format ."
say "mypy"
mypy || die "mypy found the errors above."
say "import-linter"
lint-imports || die "an import goes against the layers in pyproject.toml."
say "pytest"
pytest -n 3 --dist loadgroup "$@"
