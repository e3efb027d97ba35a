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
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    echo "installing$missing"
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then  # Debian would start an SSH server of the machine's own
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
else
    echo "missing:$missing. Install them as root: apt-get install$missing"
fi
