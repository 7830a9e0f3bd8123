#!/bin/sh
# Write the locks from pyproject.toml: every version and its hashes for every platform, and no address of any registry.
# What is pinned stays pinned; `tools/lock.sh --upgrade` takes the newest of everything.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv

compile() {
  .venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
    --no-emit-index-url --custom-compile-command "make lock" "$@"
}

compile pyproject.toml --all-extras --group test --group lint --group bench --group docs --group build -o requirements.lock "$@"
compile --group native -o requirements-native.lock "$@"
