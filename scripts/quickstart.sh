#!/usr/bin/env bash
# From a fresh checkout to a trained and evaluated potential: scripts/quickstart.sh [OVERRIDE ...]
# OVERRIDEs go to hiphop-train, e.g. model=schnet or debug=fast. Settings: see the top of scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"
    exit
fi

install_project ""
use_venv
# Batches of small molecules are too small to be divided: more threads would wait for one another.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
cd "$HIPHOP_ROOT"
run="$(hiphop-train --print-run-dir "$@")" || die "hiphop-train refused the configuration; its message is above."

say "training: hiphop-train $*"
hiphop-train "$@" || die "the training failed; its message is above." "Run this again once that is fixed."

say "evaluating: hiphop-eval checkpoint=$run"
hiphop-eval checkpoint="$run" || die "the evaluation failed; its message is above." "The trained model is in $run."

comp6="$HIPHOP_SHARED/data/comp6"
if [[ -d "$comp6" ]]; then
    say "evaluating on COMP6's S66x8: hiphop-eval checkpoint=$run data=comp6 data.root=$comp6"
    hiphop-eval checkpoint="$run" data=comp6 data.root="$comp6" ||
        die "the evaluation on COMP6 failed; its message is above." "The trained model is in $run."
else
    say "no COMP6 in $comp6: not evaluated on it (HIPHOP_SHARED names another folder)"
fi

cat <<END

Done.
  $run
    $(cd "$run" && echo *)
  the commands: $HIPHOP_VENV/bin (source $HIPHOP_VENV/bin/activate)
  next:         hiphop-train --help
END
