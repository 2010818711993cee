#!/usr/bin/env bash
# Environments for programs that hiphop-bench times and whose dependencies conflict with ours: .peers/mace, .peers/tensornet.
#
#   scripts/peers.sh                  all of them
#   scripts/peers.sh mace             one
#   hiphop-bench against=[mace] peers.mace.python=.peers/mace/bin/python structures=[FILE.pdb]
#
# HIPHOP_PEERS    the folder (default: .peers in the checkout); HIPHOP_PYTHON, HIPHOP_DEVICE as in common.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PEERS="${HIPHOP_PEERS:-$HIPHOP_ROOT/.peers}"
declare -A PACKAGES=(
    [mace]="mace-torch==0.3.15 e3nn==0.4.4"
    [tensornet]="torchmd-net==3.1.0 warp-lang==1.19.0 torch-geometric==2.8.1"
)

names=("$@")
if ((${#names[@]} == 0)); then names=(mace tensornet); fi
for name in "${names[@]}"; do
    [[ -n "${PACKAGES[$name]:-}" ]] || die "'$name' is unknown." "Allowed: mace, tensornet. The other programs run in our own environment."
done
for name in "${names[@]}"; do
    HIPHOP_VENV="$PEERS/$name"
    make_venv
    if [[ "$(wanted_device)" == cpu ]]; then install_cpu_torch; fi
    say "installing ${PACKAGES[$name]} into $HIPHOP_VENV"
    read -ra packages <<<"${PACKAGES[$name]}"
    venv_pip install "$(grep '^torch==' "$HIPHOP_ROOT/constraints.txt")" "${packages[@]}" ||
        die "the installation failed; pip's message is above."
    say "peers.$name.python=$HIPHOP_VENV/bin/python"
done
