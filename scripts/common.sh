# Shell functions shared by the scripts of this folder. Sourced, not run.
# shellcheck shell=bash
#
# HIPHOP_PYTHON   the Python that makes the environment (default: the first of python3.11 to 3.13 that runs)
# HIPHOP_VENV     the environment (default: .venv in the checkout)
# HIPHOP_DEVICE   cpu | cuda: which build of torch (default: cuda where nvidia-smi finds a GPU)
# HIPHOP_SHARED   a folder with data sets beside the checkout (default: ../shared)

HIPHOP_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
HIPHOP_VENV="${HIPHOP_VENV:-$HIPHOP_ROOT/.venv}"
HIPHOP_SHARED="${HIPHOP_SHARED:-$HIPHOP_ROOT/../shared}"
if [[ -d "$HIPHOP_SHARED" ]]; then HIPHOP_SHARED="$(cd "$HIPHOP_SHARED" && pwd)"; fi
[[ "$HIPHOP_SHARED" == /* ]] || HIPHOP_SHARED="$PWD/$HIPHOP_SHARED"
export HIPHOP_SHARED

say() { printf '==> %s\n' "$*" >&2; }

# die MESSAGE...: the first line says what is wrong, further ones what to do.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    if (($#)); then printf '       %s\n' "$@" >&2; fi
    exit 1
}

# A name on the PATH proves little (version managers leave shims that fail), so the candidate is run.
python_works() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [[ -n "${HIPHOP_PYTHON:-}" ]]; then
        python_works "$HIPHOP_PYTHON" || die "HIPHOP_PYTHON=$HIPHOP_PYTHON is not a working Python 3.11, 3.12 or 3.13 with venv." \
            "Give the path of one that is, or unset HIPHOP_PYTHON."
        printf '%s\n' "$HIPHOP_PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if python_works "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no working Python 3.11, 3.12 or 3.13 with venv on the PATH." \
        "Install one (Debian: apt-get install python3.11 python3.11-venv), or set HIPHOP_PYTHON to its path."
}

make_venv() {
    local python
    if python_works "$HIPHOP_VENV/bin/python" && "$HIPHOP_VENV/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
    # --clear below empties the folder: never one that is not an environment.
    if [[ -e "$HIPHOP_VENV" && ! -e "$HIPHOP_VENV/pyvenv.cfg" && -n "$(ls -A "$HIPHOP_VENV")" ]]; then
        die "$HIPHOP_VENV exists and is not a Python environment." "Move it, or set HIPHOP_VENV to another path."
    fi
    python="$(find_python)"
    say "making $HIPHOP_VENV with $("$python" --version)"
    "$python" -m venv --clear "$HIPHOP_VENV" || die "could not make $HIPHOP_VENV." "Check that the folder can be written and that the disk is not full."
}

# pip, quiet except for errors.
venv_pip() { "$HIPHOP_VENV/bin/python" -m pip -qq --disable-pip-version-check "$@"; }

wanted_device() {
    case "${HIPHOP_DEVICE:-auto}" in
        cpu | cuda) printf '%s\n' "$HIPHOP_DEVICE" ;;
        auto) if nvidia-smi -L >/dev/null 2>&1; then echo cuda; else echo cpu; fi ;;
        *) die "HIPHOP_DEVICE=$HIPHOP_DEVICE is not known." "Allowed: cpu, cuda; unset, it follows nvidia-smi." ;;
    esac
}

# Install the CPU build of torch before anything requires torch: on Linux, PyPI's build brings gigabytes of CUDA.
install_cpu_torch() {
    local pin
    pin="$(grep '^torch==' "$HIPHOP_ROOT/constraints.txt")" || die "constraints.txt pins no torch."
    if [[ "torch==$("$HIPHOP_VENV/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null)" == "$pin"* ]]; then return; fi
    # A CPU wheel among pip's own find-links needs no network.
    if venv_pip install --dry-run --ignore-installed --no-deps --no-index --report - "$pin" 2>/dev/null | grep -Eq '"version": "[^"]*\+cpu"'; then
        say "installing $pin (CPU, from pip's find-links)"
        if venv_pip install --no-deps --no-index "$pin"; then return; fi
    fi
    say "installing $pin (CPU, from download.pytorch.org)"
    if venv_pip install --retries 1 --no-deps --index-url https://download.pytorch.org/whl/cpu "$pin"; then return; fi
    say "download.pytorch.org is not available: taking PyPI's build, which brings CUDA (several GB) but runs on the CPU as well"
}

# References of the tests that no extra can name, since they require other versions than ours, or packages that what the
# tests use of them does without: schnetpack an older torchmetrics, mace-torch an older e3nn, alignn jarvis, and so on.
# What they do need is in the test extra.
REFERENCES=(schnetpack mace-torch alignn newtonnet python-ace torch-geometric torchmd-net)

install_references() {
    venv_pip install -c "$HIPHOP_ROOT/constraints.txt" --no-deps "${REFERENCES[@]}" ||
        die "the libraries that the tests compare with could not be installed (${REFERENCES[*]}); pip's message is above." \
            "Without a network, point pip at a folder of wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER)."
    # mace-torch installs its tests and scripts under the names of ours.
    rm -rf "$HIPHOP_VENV"/lib/python3*/site-packages/{tests,scripts}
}

# install_project EXTRAS [editable|wheel]: EXTRAS is empty or a list like [test].
# A second call costs nothing while pyproject.toml and constraints.txt are as they were.
install_project() {
    local extras="$1" mode="${2:-editable}" stamp="$HIPHOP_VENV/.hiphop-installed" device sum options=()
    make_venv
    device="$(wanted_device)"
    sum="$(cat "$HIPHOP_ROOT/pyproject.toml" "$HIPHOP_ROOT/constraints.txt" | cksum) $HIPHOP_ROOT $mode $device"
    # An installation with extras also serves where none are requested.
    if [[ "$mode" == editable && -f "$stamp" ]]; then
        case "$(<"$stamp")" in
            "$sum $extras") return ;;
            "$sum "*) if [[ -z "$extras" ]]; then return; fi ;;
        esac
    fi
    rm -f "$stamp"
    if [[ "$device" == cpu ]]; then install_cpu_torch; fi
    if [[ "$mode" == editable ]]; then options=(--editable); fi
    say "installing hiphop-train$extras into $HIPHOP_VENV (a few minutes the first time)"
    venv_pip install -c "$HIPHOP_ROOT/constraints.txt" "${options[@]}" "$HIPHOP_ROOT$extras" ||
        die "the installation failed; pip's message is above." \
            "Without a network, point pip at a folder of wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER)." \
            "To start over, remove $HIPHOP_VENV and run this again."
    if [[ "$extras" =~ test|dev ]]; then install_references; fi
    printf '%s\n' "$sum $extras" >"$stamp"
}

# Put the environment first on the PATH, as its activate script does.
use_venv() { export VIRTUAL_ENV="$HIPHOP_VENV" PATH="$HIPHOP_VENV/bin:$PATH"; }
