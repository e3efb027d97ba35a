#!/bin/sh
# What the tests of this folder need, from Debian's packages where this user may install them.
set -eu
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
missing=""
for pair in unshare:util-linux nsenter:util-linux setpriv:util-linux ip:iproute2 ss:iproute2 \
    sshd:openssh-server ssh:openssh-client ssh-keygen:openssh-client rsync:rsync prometheus:prometheus; do
    command -v "${pair%%:*}" > /dev/null || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
by_hand="missing:$missing. Install them as root: apt-get install$missing"
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "$by_hand"
    exit 0  # the tests say why they are skipped
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then  # Debian would start an SSH server of the machine's own
    trap 'rm -f "$policy"' EXIT
    if ! { printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy"; }; then
        echo "$by_hand"
        exit 0
    fi
fi
echo "installing$missing"
apt-get update -qq || echo "apt-get update failed: the lists that are here already are used"
for package in $missing; do  # each for itself: one that cannot be had keeps back no other
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" ||
        echo "not installed: $package. The tests that need it are skipped"
done
