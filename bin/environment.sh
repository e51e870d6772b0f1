# Sourced by the other commands: makes .venv with what they need, once for each state of pyproject.toml.
# Usage: . bin/environment.sh EXTRA

find_python() {
  local name
  for name in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python3.14; do
    if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 &&
      "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "nexa_sdk needs Python 3.11 or later with venv (on Debian and Ubuntu: sudo apt-get install python3 python3-venv)." >&2
  echo "If it is elsewhere, name it: PYTHON=/path/to/python3 bash $0" >&2
  return 1
}

make_environment() {
  local extra=$1 venv=${NEXA_VENV:-.venv} stamp
  stamp=$venv/.nexa-$extra-$(cksum < pyproject.toml | cut -d' ' -f1)
  if [ ! -e "$stamp" ]; then
    [ -x "$venv/bin/python" ] || { echo "Making $venv …"; "$(find_python)" -m venv "$venv"; }
    echo "Installing nexa_sdk[$extra] into $venv …"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
    touch "$stamp"
  fi
  PATH=$PWD/$venv/bin:$PATH
  export PATH
}
