#!/bin/sh
# Print the path of a Chromium, which is installed first if there is none and this is root on a Debian.
# Exit 1 with a word on stderr when there is none and none can be installed.
set -eu

find_chromium() {
    for name in "${CHROMIUM:-chromium}" chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name"; then return 0; fi
    done
    return 1
}

refuse() {
    echo "need_chromium: $*" >&2
    exit 1
}

if find_chromium; then exit 0; fi
[ "$(id -u)" = 0 ] || refuse "there is no chromium, and only root can install one"
command -v apt-get >/dev/null || refuse "there is no chromium, and no apt-get to install it"

# Two test workers may come at once: the second waits, and then finds what the first installed.
exec 9>"${TMPDIR:-/tmp}/need_chromium.lock"
flock 9
if find_chromium; then exit 0; fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } >&2 || refuse "apt-get could not install chromium"
find_chromium || refuse "chromium was installed, but is not on the PATH"
