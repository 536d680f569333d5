#!/usr/bin/env bash
# Installs what synthetic pages are made of, on Debian 12, as root: envs/synthesis-packages.txt, and the
# typefaces of texlive-fonts-extra without TeX.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
grep -v '^#' envs/synthesis-packages.txt \
    | xargs apt-get -qq install -y --no-install-recommends -o Dpkg::Options::=--path-include='/usr/share/doc/*'
# Signs, and families that other packages have, or have in hundreds of sizes.
left_out=('drm/*' '*symbol*/*' 'roboto/*' 'google/noto/*' 'carlito/*' 'droid*/*' 'logix/*' '*icons/*'
    'fontawesome*/*' 'aesupp/*' 'twemoji*/*' 'hamnosys/*' 'fontmfizz/*' 'doulossil/*' 'phaistos/*'
    'countriesofeurope/*')
fonts=/usr/local/share/fonts/texlive-fonts-extra
if [ ! -d "$fonts" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    (cd "$folder" && apt-get -qq download texlive-fonts-extra && mkdir fonts \
        && dpkg-deb --fsys-tarfile texlive-fonts-extra_*.deb \
        | tar -x -C fonts --transform='s|.*/||' --wildcards "${left_out[@]/#/--exclude=*/}" '*.otf' '*.ttf')
    mkdir -p "$(dirname "$fonts")"
    mv "$folder/fonts" "$fonts"
    chmod 755 "$fonts"
fi
fc-cache
