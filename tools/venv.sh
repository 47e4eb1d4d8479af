# Sourced by the launchers: `prepare_venv` makes .venv in the clone and installs testbed there, once.
#
# The install is editable: edits of the sources act at once, and the native kernel, where a compiler could build it, lies
# in the environment. A stamp, written last, remembers what was installed; pip runs again only when the stamp does not
# fit: after a change of the inputs below, in a moved clone, or after an install that did not reach its end.
# Plain pip on purpose: it follows the user's own index and proxy settings. Everything said here goes to stderr.

root=$(cd "$(dirname "$0")/.." && pwd -P)
venv=$root/.venv

fail() {
    echo "error: $1" >&2
    exit 1
}

# Prints a Python >= 3.11 that can make virtual environments. TESTBED_PYTHON names one to use.
find_python() {
    without_venv=
    for candidate in ${TESTBED_PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    [ -z "$without_venv" ] || fail "$without_venv cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
    fail "no Python >= 3.11 found; install one, or name it: TESTBED_PYTHON=/path/to/python $0"
}

# Says what an install depends on; changes when any of it does.
fingerprint() {
    {
        "$venv/bin/python" -V && cat "$root/pyproject.toml" "$root/CMakeLists.txt" "$root"/kernels/*
        # an editable install remembers which packages there are: a module that became a folder is not found without this
        cd "$root" && find testbed -type d ! -name __pycache__ | sort
    } | cksum
}

usable_venv() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && grep -qF "$venv" "$venv/pyvenv.cfg"
}

install() {
    if ! usable_venv; then
        python=$(find_python) || exit 1
        echo "making $venv with $("$python" -V)" >&2
        "$python" -m venv --clear "$venv" >&2 || fail "cannot make $venv"
    fi
    rm -f "$venv/stamp"
    echo "installing testbed and what it needs into $venv (a few minutes, once)" >&2
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input -e "$root${1:+[$1]}" >&2 ||
        fail "the installation failed (pip's own message is above); put that right and run the same command again"
    echo "$(fingerprint) $1" >"$venv/stamp"
}

# $1: an extra to install too, or nothing.
prepare_venv() {
    exec 9<"$root/pyproject.toml"
    if command -v flock >/dev/null; then flock 9; fi # two first calls at once: the second waits
    installed=$(cat "$venv/stamp" 2>/dev/null) || installed=
    wanted=$(fingerprint 2>/dev/null) || wanted=
    case $installed in
        "$wanted $1" | "$wanted test") usable=yes ;;
        *) usable= ;;
    esac
    if [ -z "$usable" ] || ! grep -qF "$venv" "$venv/pyvenv.cfg"; then install "$1"; fi
    exec 9<&-
}
