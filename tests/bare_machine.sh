#!/usr/bin/env bash
# Runs the README's commands as a stranger would, on a machine that has nothing but git, make and
# Python: a bare Debian of this host's release in a temporary folder, by debootstrap and chroot.
#
#     tests/bare_machine.sh [TARGET...]      as root; targets of make, by default: demo test
#
# What is tested is what is committed. Mirrors, proxies and certificates that this host has set up
# for apt and pip hold there too. Takes 20 GB in TMPDIR (default /var/tmp); nothing is left behind.
set -euo pipefail

packages=git,make,python3,python3-venv,ca-certificates

stop() {
    echo "$1" >&2
    exit 1
}

# --- outside: a folder that is removed at the end, by a process that sees none of the mounts ---

if [ "${1-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || stop "A chroot needs root: sudo make test-bare-machine"
    command -v apt-get >/dev/null || stop "This test needs a Debian or Ubuntu."
    command -v debootstrap >/dev/null || {
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive apt-get -qq install -y debootstrap >/dev/null
    }
    repository=$(cd "$(dirname "$0")/.." && pwd)
    if [ -n "$(git -C "$repository" status --porcelain)" ]; then
        echo "Uncommitted changes are not part of this test."
    fi
    [ $# -gt 0 ] || set -- demo test
    root=$(mktemp -d "${TMPDIR:-/var/tmp}/scanmill-bare.XXXXXX")
    trap 'rm -rf --one-file-system "$root"' EXIT
    chmod 755 "$root"
    # Mounts and processes of the other side end with it, whatever happens.
    unshare --mount --propagation private --pid --fork --kill-child \
        bash "$repository/tests/bare_machine.sh" --inside "$root" "$repository" "$@"
    exit
fi

# --- inside: mounts are seen from here only ---

root=$2
repository=$3
shift 3
targets=("$@")

# Text of the configuration that pip has on this host: files and variables.
pip_files=(/etc/pip.conf /etc/xdg/pip/pip.conf "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf")
pip_configuration() {
    cat "${pip_files[@]}" 2>/dev/null || true
    env | grep '^PIP_' || true
}

# Copy a file of the host to the same place; what lies in the home folder, into root's.
copy() {
    local target=$root${1/#$HOME\//\/root\/}
    mkdir -p "$(dirname "$target")"
    cp -L "$1" "$target"
}

# Show a folder of the host at the same place, to be read only.
share_folder() {
    if [ "$1" != / ] && [ -d "$1" ] && ! mountpoint -q "$root$1"; then
        mkdir -p "$root$1"
        mount --bind -o ro "$1" "$root$1"
    fi
}

install_debian() {
    local codename mirror log=$root/debootstrap.txt
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
        "Codename: $codename" "Component: main" | head -n 1)
    [ -n "$mirror" ] || stop "apt knows no mirror of $codename: run apt-get update first."
    echo "Debian $codename with $packages"
    debootstrap --variant=minbase --include="$packages" "$codename" "$root" "$mirror" >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; stop "debootstrap failed."; }
    rm -f "$log"
}

configure() {
    local file path
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    # apt: mirrors and their keys, and what reaches them (proxies, certificates).
    rm -f "$root/etc/apt/sources.list"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} \
        /etc/apt/trusted.gpg /etc/apt/trusted.gpg.d/* /etc/apt/keyrings/* /usr/share/keyrings/*; do
        if [ -f "$file" ]; then copy "$file"; fi
    done
    { grep -lsi '^ *Acquire' /etc/apt/apt.conf /etc/apt/apt.conf.d/* || true; } |
        while read -r file; do copy "$file"; done
    # Certificates: the host's own, and the files that variables name.
    copy /etc/ssl/certs/ca-certificates.crt
    env | sed -n 's/^[A-Z0-9_]*\(CERT\|CAINFO\|CA_BUNDLE\|CERT_FILE\)=\(\/.*\)/\2/p' |
        while read -r path; do if [ -f "$path" ]; then copy "$path"; fi; done
    # pip: its files; the files and folders of this host that they name.
    for file in "${pip_files[@]}"; do
        if [ -f "$file" ]; then copy "$file"; fi
    done
    for path in $(pip_configuration | grep -oE '(file://)?/[^ ,"=]+' | sort -u); do
        case $path in
            # An index names its files relative to itself, as a rule beside its folder.
            file://*) share_folder "$(dirname "${path#file://}")" ;;
            //*) ;; # what follows the scheme of another address
            *) if [ -f "$path" ]; then copy "$path"; else share_folder "$path"; fi ;;
        esac
    done
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    mount --bind /dev/pts "$root/dev/pts"
    mount -t tmpfs tmpfs "$root/dev/shm"
}

# Run a command in the bare machine, with the host's variables for pip, proxies and certificates
# and no other.
inside() {
    local variables
    mapfile -t variables < <(env | grep -iE '^(PIP_[A-Z_]*|[a-z]*_proxy|[A-Z0-9_]*(CERT|CAINFO|CA_BUNDLE|CERT_FILE|CERT_DIR))=')
    chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${variables[@]}" \
        bash -c "cd /root && $1"
}

install_debian
size=$(du -sm "$root" | cut -f1) # before anything is mounted there
configure
git -c safe.directory='*' clone --quiet --no-hardlinks "$repository" "$root/root/scanmill"
echo "Before: $(inside 'python3 --version; git --version; command -v pdftoppm || echo no Poppler' |
    paste -sd, | sed 's/,/, /g'), $size MB"
report="" status=0
for target in "${targets[@]}" env; do
    echo "--- make $target ---"
    start=$(date +%s%N)
    result=done
    inside "cd scanmill && make $target" || { result=FAILED; status=1; }
    hundredths=$((($(date +%s%N) - start) / 10000000))
    report+=$(printf 'make %-5s %s in %d.%02d s' "$target" "$result" $((hundredths / 100)) $((hundredths % 100)))$'\n'
done
echo "--- a bare $(. /etc/os-release && echo "$PRETTY_NAME"), $(nproc) cores ---"
printf '%s' "$report"
exit $status
