#!/usr/bin/env bash
# Installs what the tests need from Debian: `chromium`, in which they open the HTML reports as a reader would, and
# `fonts-liberation` and `fonts-dejavu-core`, whose letters are as wide as most readers' (Arial's) and as the widest that
# systems fall back on. Everything else, PostgreSQL and an S3 server included, comes as Python wheels. Does nothing where
# they are present.
set -euo pipefail

packages=()
[[ -x /usr/bin/chromium ]] || packages+=(chromium)
[[ -d /usr/share/fonts/truetype/liberation ]] || packages+=(fonts-liberation)
[[ -d /usr/share/fonts/truetype/dejavu ]] || packages+=(fonts-dejavu-core)
if [[ ${#packages[@]} -eq 0 ]]; then
    exit 0
fi

echo "The tests open HTML reports in /usr/bin/chromium: installing Debian's ${packages[*]}."

if ! command -v apt-get >/dev/null; then
    echo "This is not Debian (no apt-get). Provide an executable /usr/bin/chromium and the Liberation and DejaVu" \
        "fonts in /usr/share/fonts/truetype, and try again." >&2
    exit 1
fi

as_root=()
if [[ $EUID -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "Installing needs root and there is no sudo. As root, run: apt-get install ${packages[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

"${as_root[@]}" apt-get update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}"

if [[ ! -x /usr/bin/chromium ]]; then
    echo "The package 'chromium' of this distribution brings no /usr/bin/chromium (Ubuntu's is a snap); Debian's does." >&2
    exit 1
fi
