#!/usr/bin/env bash
# Makes .venv, with everything pinned, and the embedded model; does nothing when both are up to date.
#   PYTHON=python3.12 scripts/setup.sh    chooses the interpreter
# What the installers say goes to .venv/setup.log.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=$PWD/.venv
LOG=$VENV/setup.log
DONE=$VENV/setup.done
INCOMPLETE=$VENV/setup.incomplete
INPUTS=(requirements/cpu.txt requirements/torch.txt pyproject.toml scripts/setup.sh)
PYTORCH_INDEX=https://download.pytorch.org/whl/cpu
ticker=

main() {
  [[ $# == 0 ]] || fail "takes no arguments; PYTHON=python3.12 scripts/setup.sh chooses the interpreter"
  if up_to_date; then return; fi
  check_platform
  exec 9<scripts/setup.sh
  flock 9 # a second setup waits here, then finds its work done
  if up_to_date; then return; fi
  if usable; then
    PYTHON=$VENV/bin/python
  else
    check_python
    rm -rf "$VENV"
    mkdir "$VENV"
  fi
  touch "$INCOMPLETE"
  : >"$LOG"
  exec 8>&2 # while a step runs, standard error is the log
  trap stop_ticker EXIT
  trap interrupted INT TERM

  step 1 "making .venv with Python $(version "$PYTHON")" make_venv
  adopt_settings_of_pip
  step 2 "installing $(pin torch), its CPU build (190 MB)" install_torch
  step 3 "installing $(grep -c == requirements/cpu.txt) pinned packages (500 MB)" uv_install -r requirements/cpu.txt
  step 4 "installing streamserve" uv_install --no-build-isolation -e .
  step 5 "preparing the embedded model (once)" "$VENV/bin/python" -m streamserve.lanes.vllm.model
  fingerprint >"$DONE"
  rm "$INCOMPLETE"
  echo "ready after $SECONDS s"
}

fingerprint() { cat "${INPUTS[@]}" | sha256sum; }
up_to_date() { usable && [[ -e $DONE && $(<"$DONE") == "$(fingerprint)" ]]; }

# An environment that an interrupted setup left, or that was moved here from another folder, is made anew.
usable() { [[ ! -e $INCOMPLETE && -x $VENV/bin/python ]] && grep -qF "$VENV" "$VENV/bin/activate" 2>/dev/null; }

check_platform() {
  local machine libc
  machine="$(uname -s) on $(uname -m)"
  [[ $machine == "Linux on x86_64" ]] ||
    fail "the CPU build is made for Linux on x86_64, this is $machine: use such a machine, VM or container"
  libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc="another C library"
  printf '%s\n' "glibc 2.31" "$libc" | sort -VC ||
    fail "the pinned packages need glibc 2.31 or newer, this system has $libc: use e.g. Debian 11 or Ubuntu 20.04, or newer"
}

check_python() {
  local version choose="make setup PYTHON=python3.12"
  command -v "$PYTHON" >/dev/null || fail "no $PYTHON here: install Python 3.11, 3.12 or 3.13, or choose one: $choose"
  version=$(version "$PYTHON")
  case $version in
    3.11.* | 3.12.* | 3.13.*) ;;
    "") fail "$PYTHON does not run: choose another Python: $choose" ;;
    *) fail "$PYTHON is Python $version, StreamServe needs 3.11, 3.12 or 3.13: choose one: $choose" ;;
  esac
  "$PYTHON" -c "import venv, ensurepip" 2>/dev/null ||
    fail "$PYTHON cannot make environments: install its venv package (e.g. apt install python3-venv), or choose another: $choose"
}

version() { "$1" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))' 2>/dev/null || true; }

make_venv() {
  [[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV" || return
  [[ -x $VENV/bin/uv ]] || "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$(pin uv)"
}

pin() { grep -h "^$1==" requirements/torch.txt requirements/cpu.txt; }
install_torch() { uv_install -r requirements/torch.txt || uv_install -r requirements/torch.txt --default-index "$PYTORCH_INDEX"; }
# Compiled here, not at each start: where PYTHONDONTWRITEBYTECODE is set nobody else would, and importing takes three times
# as long.
uv_install() { "$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps --compile-bytecode "$@"; }

# uv takes seconds where pip takes minutes, but does not read pip's settings; and who told pip of an index, a folder
# of wheels or a certificate meant it for this too.
adopt_settings_of_pip() {
  local settings
  settings=$("$VENV/bin/python" -m pip config list 2>/dev/null)
  export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
  adopt UV_DEFAULT_INDEX index-url " "
  adopt UV_INDEX extra-index-url " "
  adopt UV_FIND_LINKS find-links ","
  adopt SSL_CERT_FILE cert " "
}

adopt() { # uv's variable, pip's name for it, what separates several values
  local values
  values=$(sed -n "/^[^=]*\.$2='.*'\$/{s/^[^=]*='\(.*\)'\$/\1/;s/\\\\n/ /g;p;q}" <<<"$settings" | xargs)
  if [[ -n $values && -z ${!1:-} ]]; then export "$1=${values// /$3}"; fi
}

step() { # number, what it does, command
  local text="[$1/5] $2" start_s=$SECONDS
  shift 2
  printf '%s' "$text"
  if [[ -t 1 ]]; then
    tick "$text" "$start_s" &
    ticker=$!
  fi
  "$@" >>"$LOG" 2>&1 || failed "$text"
  stop_ticker
  if [[ -t 1 ]]; then printf '\r\033[K%s' "$text"; fi
  printf ': %s s\n' $((SECONDS - start_s))
}

tick() { # repeats the step's line with the seconds so far and the installer's last word
  local columns line
  columns=$(tput cols 2>/dev/null || echo 80)
  while sleep 1; do
    line="$1: $((SECONDS - $2)) s  $(grep -v '^WARNING' "$LOG" | tail -n 1)"
    printf '\r\033[K%s' "${line:0:columns-1}"
  done
}

stop_ticker() {
  if [[ -n $ticker ]]; then kill "$ticker" 2>/dev/null && wait "$ticker" 2>/dev/null || true; fi
  ticker=
}

interrupted() {
  trap - INT TERM
  printf '\nsetup: interrupted; the next make setup starts over with what is already downloaded\n' >&8
  exit 130
}

failed() {
  stop_ticker
  printf '\n\n%s\n\n' "$(tail -n 12 "$LOG")" >&2
  fail "failed at $1; see $LOG, check the network and $(df -h --output=avail . | tail -n 1 | xargs) of free disk (5 GB are needed), and run make setup again"
}

fail() {
  echo "setup: $1" >&2
  exit 1
}

main "$@"
