#!/usr/bin/env bash
# Builds the browser package (scripts/build-web.sh) and runs its tests in headless Chromium, on WebGPU (SwiftShader) and without.
# Installs what is missing on Debian, and on Ubuntu all but the browser, which is a snap there: CHROMIUM names another one.
set -eEuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "test-web.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR

say() { echo "test-web.sh: $*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
install() {
    command -v apt-get >/dev/null || { say "this script installs packages on Debian and Ubuntu only: install $*" >&2; exit 1; }
    say "installing $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

browser() { command -v chromium || command -v google-chrome-stable || command -v google-chrome; }
if [ -z "${CHROMIUM:-}" ] && ! browser >/dev/null; then
    if grep -qs '^ID=ubuntu$' /etc/os-release; then
        say "no browser: snap install chromium, or install Google Chrome, or name one in CHROMIUM" >&2
        exit 1
    fi
    install chromium
fi
CHROMIUM=${CHROMIUM:-$(browser)}
export CHROMIUM
command -v node >/dev/null && command -v npm >/dev/null || install nodejs npm

bash scripts/build-web.sh
# What the page is compared with, as the other tests build it: `cargo build` alone would build it anew, with fewer features.
cargo test --quiet --locked --no-run --test shaders

build=$PWD/target/web
case ${CARGO_TARGET_DIR:-} in '') ;; /*) build=$CARGO_TARGET_DIR/web ;; *) build=$PWD/$CARGO_TARGET_DIR/web ;; esac
# Packages are installed beside what is built, and modules are found from where they lie.
tests=$build/tests
mkdir -p "$tests"
cp tests/web/* "$tests/"
if ! cmp -s "$tests/package-lock.json" "$tests/node_modules/.installed"; then
    (cd "$tests" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp "$tests/package-lock.json" "$tests/node_modules/.installed"
fi
export SPIKESHADE_ROOT=$PWD SPIKESHADE_SITE=$build/site SPIKESHADE_PROGRAM=$(dirname "$build")/debug/spikeshade
# One after the other: some of them watch the clock. None waits for ever.
for file in strokes package worker why page; do node --test --test-timeout=1800000 "$tests/$file.test.js"; done
say "screenshots of the page are in $build/screenshots"
