#!/usr/bin/env bash
# Installs what synthetic pages are made of, on Debian 12, as root: envs/synthesis-packages.txt, and the
# typefaces of texlive-fonts-extra without TeX.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
grep -v '^#' envs/synthesis-packages.txt \
    | xargs apt-get -qq install -y --no-install-recommends -o Dpkg::Options::=--path-include='/usr/share/doc/*'
fonts=/usr/local/share/fonts/texlive-fonts-extra
if [ ! -d "$fonts" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    (cd "$folder" && apt-get -qq download texlive-fonts-extra && mkdir fonts \
        && dpkg-deb --fsys-tarfile texlive-fonts-extra_*.deb \
        | tar -x -C fonts --wildcards '*.otf' '*.ttf' --transform='s|.*/||')
    mkdir -p "$(dirname "$fonts")"
    mv "$folder/fonts" "$fonts"
fi
fc-cache
