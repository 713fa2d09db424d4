#!/usr/bin/env bash
# Everything that must hold before a change lands: formatting, lints, docs, every test on both software drivers, and the browser
# package in headless Chromium. Installs what is missing (scripts/setup-test-drivers.sh, scripts/build-web.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

exports=$(scripts/setup-test-drivers.sh)
eval "$exports"
# The Vulkan loader looks there for nothing that matters here, and warns on stderr if it is not set.
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$(mktemp -d)}
# Compiled pipelines are not kept among the user's.
export SPIKESHADE_CACHE_DIR=${SPIKESHADE_CACHE_DIR-$(mktemp -d)}

step() { echo "== $*"; "$@"; }
step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo clippy --locked --no-default-features --lib -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps
step cargo test --locked --no-fail-fast
step bash scripts/test-web.sh
