#!/usr/bin/env bash
# Builds the browser package: bash scripts/build-web.sh [FOLDER]
#
# Writes a folder (target/web/site unless another is named) that any static server can serve: the npm package `spikeshade`
# (index.js, index.d.ts, the WebAssembly module), the model trained on MNIST, and the page of examples/web. Says which toolchain
# it took: rustup's wasm target where it is there or can be added, else Debian's. Installs what is missing on Debian, and on
# Ubuntu all but Debian's compiler; fails where what a page loads exceeds its budget.
set -eEuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "build-web.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR

build=${CARGO_TARGET_DIR:-target}/web
site=${1:-$build/site}
# Bytes of wasm, JavaScript and the model together, each gzipped.
budget=$((1200 * 1000))
target=wasm32-unknown-unknown

say() { echo "build-web.sh: $*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
install() {
    command -v apt-get >/dev/null || { say "this script installs packages on Debian and Ubuntu only: install $*" >&2; exit 1; }
    say "installing $*"
    as_root apt-get update -qq
    local goes
    goes=$(apt-get -s install --no-install-recommends "$@" | sed -n 's/^Remv \([^ ]*\).*/\1/p') \
        || { say "apt has not all of $*; in place of a compiler, rustup's toolchain (https://rustup.rs) does" >&2; exit 1; }
    [ -z "$goes" ] || { say "$* would take the place of $goes; install one or the other yourself" >&2; exit 1; }
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
has_target() { [ -n "$(find "$(rustc --print target-libdir --target $target 2>/dev/null)" -name 'libstd-*.rlib' 2>/dev/null)" ]; }

crate_version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | sed -n 1p)
for place in "\"version\": \"$crate_version\"" "static version = '$crate_version'"; do
    grep -qF "$place" web/package.json web/index.js || { say "no $place in web/; Cargo.toml has version $crate_version" >&2; exit 1; }
done
command -v cc >/dev/null || install gcc libc6-dev
mkdir -p "$build"

# The compiler. Vectors are in every browser that has WebGPU; the twins' loops want them.
compile=(rustc --locked --profile web --lib --crate-type cdylib --target $target --no-default-features --features web
    --target-dir "$build/wasm")
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=+simd128"
# SPIKESHADE_WEB_TOOLCHAIN=debian takes Debian's in any case.
if [ "${SPIKESHADE_WEB_TOOLCHAIN:-}" != debian ] && command -v rustc >/dev/null \
    && { has_target || { command -v rustup >/dev/null && rustup target add $target >/dev/null 2>&1 && has_target; }; }; then
    say "toolchain: $(rustc -V), its own $target"
    cargo "${compile[@]}"
else
    has_source() { [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]; }
    if [ ! -x /usr/bin/cargo ] || ! has_source || ! compgen -G '/usr/bin/wasm-ld*' >/dev/null; then
        install rustc-web cargo-web rust-web-src lld
    fi
    linker=$(compgen -G '/usr/bin/wasm-ld*' | sort | sed -n 1p)
    say "toolchain: $(/usr/bin/rustc -V) of Debian, with the standard library built from source, linker $linker"
    env -u RUSTUP_TOOLCHAIN RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker" \
        /usr/bin/cargo "${compile[@]}" -Z build-std=std,panic_abort
fi
wasm=$build/wasm/$target/web/spikeshade.wasm

# Its JavaScript, with exactly the version of wasm-bindgen that it was compiled with.
version() { sed -n "/^name = \"$1\"\$/{n;s/^version = \"\(.*\)\"\$/\1/p}" "$2"; }
ours=$(version wasm-bindgen Cargo.lock)
theirs=$(version wasm-bindgen-cli-support web/bindgen/Cargo.lock)
if [ "$ours" != "$theirs" ]; then
    say "Cargo.lock has wasm-bindgen $ours and web/bindgen/Cargo.lock wasm-bindgen-cli-support $theirs; make them the same" >&2
    exit 1
fi
cargo run --quiet --locked --manifest-path web/bindgen/Cargo.toml --target-dir "$build/bindgen" -- "$wasm" "$build/package" spikeshade_wasm

# Smaller, with what web/index.js tells old browsers by (PROBE), and nothing newer.
command -v npm >/dev/null || install nodejs npm
mkdir -p "$build/tools"
if ! cmp -s web/tools/package-lock.json "$build/tools/node_modules/.installed"; then
    cp web/tools/package.json web/tools/package-lock.json "$build/tools/"
    (cd "$build/tools" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp web/tools/package-lock.json "$build/tools/node_modules/.installed"
fi
features=(--enable-simd --enable-bulk-memory --enable-sign-ext --enable-mutable-globals --enable-nontrapping-float-to-int
    --enable-reference-types --enable-multivalue)
"$build/tools/node_modules/.bin/wasm-opt" -O3 "${features[@]}" "$build/package/spikeshade_wasm_bg.wasm" -o "$build/spikeshade.wasm"

# Only a folder of its own is emptied.
made=.made-by-build-web
if [ -n "$(ls -A "$site" 2>/dev/null)" ] && [ ! -e "$site/$made" ]; then
    say "$site holds other files; name an empty folder or one that this script made" >&2
    exit 1
fi
rm -rf "$site"
mkdir -p "$site"
touch "$site/$made"
if [ -d examples/web ]; then cp -r examples/web/. "$site/"; fi
package=$site/spikeshade
mkdir -p "$package"
cp web/index.js web/index.d.ts web/package.json web/README.md LICENSE-MIT LICENSE-APACHE models/mnist-2-64.safetensors "$package/"
cp "$build/package/spikeshade_wasm.js" "$build/package/spikeshade_wasm.d.ts" "$package/"
cp "$build/spikeshade.wasm" "$package/spikeshade_wasm_bg.wasm"

# What keeps the page offline knows each of its files by a hash, and all of them by one.
if [ -f "$site/sw.js" ]; then
    node - "$site" <<'JS'
const fs = require('fs');
const { createHash } = require('crypto');
const [site] = process.argv.slice(2);
const text = fs.readFileSync(`${site}/sw.js`, 'utf8');
const files = text.match(/const FILES = \[([^\]]*)\]/)[1].match(/'[^']+'/g).map((name) => name.slice(1, -1));
const hash = (bytes) => createHash('sha256').update(bytes).digest('base64');
const hashes = Object.fromEntries(files.map((name) => [name, `sha256-${hash(fs.readFileSync(`${site}/${name === './' ? 'index.html' : name}`))}`]));
const version = hash(text + JSON.stringify(hashes)).replace(/\W/g, '').slice(0, 12);
const put = (text, from, to) => (text.includes(from) ? text.replace(from, to) : process.exit(1));
const named = put(text, "const VERSION = 'unbuilt';", `const VERSION = '${version}';`);
fs.writeFileSync(`${site}/sw.js`, put(named, 'const HASHES = {};', `const HASHES = ${JSON.stringify(hashes, null, 2)};`));
JS
fi

say "what a page loads, in bytes:"
total=0
page=()
for file in "$site"/*.html "$site"/*.css "$site"/*.js "$site"/*.jpg; do if [ -f "$file" ]; then page+=("${file##*/}"); fi; done
for file in spikeshade/{spikeshade_wasm_bg.wasm,spikeshade_wasm.js,index.js,mnist-2-64.safetensors} "${page[@]}"; do
    raw=$(stat -c %s "$site/$file")
    zipped=$(gzip -9 <"$site/$file" | wc -c)
    total=$((total + zipped))
    printf '  %-36s %9d, gzipped %8d\n' "$file" "$raw" "$zipped"
done
printf '  %-36s %9s  gzipped %8d of %d\n' together '' "$total" "$budget"
if [ "$total" -gt "$budget" ]; then
    say "that is more than the budget; look at what grew" >&2
    exit 1
fi
say "$site"
