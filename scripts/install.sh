#!/usr/bin/env bash
# Install hiphop-train into an environment of its own: scripts/install.sh [--wheel] [EXTRA ...]
#   --wheel   install a copy instead of the checkout itself (the Dockerfile does)
#   EXTRA     extras of pyproject.toml: tensorboard, generate, test, dev
# Settings: see the top of scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

mode=editable
extras=()
for argument in "$@"; do
    case "$argument" in
        -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit ;;
        --wheel) mode=wheel ;;
        -*) die "unknown option $argument." "Usage: scripts/install.sh [--wheel] [EXTRA ...]" ;;
        *) extras+=("$argument") ;;
    esac
done
list="$(IFS=,; echo "${extras[*]}")"
install_project "${list:+[$list]}" "$mode"
say "ready: $HIPHOP_VENV/bin/hiphop-train --help"
