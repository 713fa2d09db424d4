#!/usr/bin/env bash
# Installs what the tests run on: two software Vulkan drivers, lavapipe and (where the distribution packages it) SwiftShader.
# Prints, for the caller to evaluate, the variables that make both visible. Debian and Ubuntu; needs root or sudo only where
# something is missing.
set -eu

say() { echo "$*" >&2; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
# Folders that are not there are no failure: each answers with nothing.
find_icd() { find /usr/share/vulkan/icd.d /etc/vulkan/icd.d -name 'lvp_icd*.json' 2>/dev/null | sort | head -n 1; }
find_swiftshader() { find /usr/lib/chromium /usr/lib/chromium-browser -name vk_swiftshader_icd.json 2>/dev/null | head -n 1; }
loader() { /sbin/ldconfig -p 2>/dev/null | grep 'libvulkan\.so\.1' >/dev/null; }
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
