#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First process of the demonstration guest: says that user space is reached, then runs the
# command of the kernel's parameter xg.run="...", or a shell on the console.  When that ends,
# the guest powers off.

# Sets "value" to the value of a kernel parameter, without quotes; fails if there's none.
parameter() {
    case $line in
    *" $1="*) value=${line#*" $1="} ;;
    *) return 1 ;;
    esac
    case $value in
    '"'*) value=${value#'"'} value=${value%%'"'*} ;;
    *) value=${value%% *} ;;
    esac
}

export PATH=/bin HOME=/root TERM=linux PS1='guest:\w# '
[ -e /bin/mount ] || /bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
read -r uptime _ < /proc/uptime
read -r _ _ release _ < /proc/version
read -r line < /proc/cmdline
line=" $line "
echo "demo-initrd: user space after $uptime s, Linux $release"

mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
cd /root || exit 1

# The last of the active consoles is the one behind /dev/console.  /dev/console itself can't be
# a controlling terminal, which job control needs.
console=/dev/console
if read -r active 2>/dev/null < /sys/class/tty/console/active; then
    [ -c "/dev/${active##* }" ] && console=/dev/${active##* }
fi

for module in /lib/modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done

# xg.net=dhcp, or an address with its prefix: of the first interface.
if parameter xg.net; then
    ip link set lo up
    ip link set eth0 up
    if [ "$value" = dhcp ]; then
        udhcpc -i eth0 -n -q
    else
        ip address add "$value" dev eth0
    fi
fi

# root=/dev/xvda: the system on that disk takes over.
if parameter root; then
    mkdir -p /mnt
    waited=0
    while [ ! -b "$value" ] && [ $waited -lt 100 ]; do
        sleep 0.1
        waited=$((waited + 1))
    done
    if mount -t ext4 "$value" /mnt; then
        umount /proc /dev/pts
        mount --move /sys /mnt/sys
        mount --move /dev /mnt/dev
        exec switch_root /mnt /sbin/init
    fi
    echo "demo-initrd: $value can't be mounted; here's a shell"
fi

if parameter xg.tty; then
    stty rows "${value%x*}" cols "${value#*x}" < "$console"
fi
if parameter xg.run; then
    sh -c "$value"
    echo "demo-initrd: the command ended with status $?"
else
    setsid -c sh -i < "$console" > "$console" 2>&1
fi
poweroff -f
