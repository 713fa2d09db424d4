#!/usr/bin/env bash
# Installs what the tests run on: two software Vulkan drivers, lavapipe and (where the distribution packages it) SwiftShader.
# Prints, for the caller to evaluate, the variables that make both visible. Debian and Ubuntu; needs root or sudo only where
# something is missing.
set -eEu
# ldconfig is there, and no part of an ordinary user's PATH on Debian.
PATH=$PATH:/usr/sbin:/sbin

say() { echo "$*" >&2; }
trap 'say "setup-test-drivers.sh: line $LINENO failed: $BASH_COMMAND"' ERR
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# The first of the files in these folders with that name. A folder that is not there is no failure.
first() {
    local name=$1
    shift
    { find "$@" -name "$name" 2>/dev/null || true; } | sort | sed -n 1p
}
find_icd() { first 'lvp_icd*.json' /usr/share/vulkan/icd.d /etc/vulkan/icd.d; }
find_swiftshader() { first vk_swiftshader_icd.json /usr/lib/chromium /usr/lib/chromium-browser; }
loader() { ldconfig -p | grep 'libvulkan\.so\.1' >/dev/null; }
install() {
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

if ! loader || [ -z "$(find_icd)" ] || [ -z "$(find_swiftshader)" ] || ! command -v cc >/dev/null; then
    command -v apt-get >/dev/null || { say "this script knows Debian and Ubuntu only: install a Vulkan loader and mesa's lavapipe"; exit 1; }
    as_root apt-get update >&2
    command -v cc >/dev/null || install gcc libc6-dev
    loader && [ -n "$(find_icd)" ] || install libvulkan1 mesa-vulkan-drivers
    if [ -z "$(find_swiftshader)" ]; then
        # Ubuntu's chromium is a snap without the file; there the second driver is left out.
        install chromium-common || say "no SwiftShader here; the tests run on lavapipe alone"
    fi
fi

lavapipe=$(find_icd)
swiftshader=$(find_swiftshader)
[ -n "$lavapipe" ] || { say "lavapipe's ICD file was not found after installing mesa-vulkan-drivers"; exit 1; }
echo "export VK_DRIVER_FILES=$lavapipe${swiftshader:+:$swiftshader}"
echo "export SPIKESHADE_TEST_ADAPTERS=llvmpipe${swiftshader:+,SwiftShader}"
