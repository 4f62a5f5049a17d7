#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First process of the demonstration guest: says that user space is reached, then runs the
# command of the kernel's parameter xg.run="...", or a shell on the console.  When that ends,
# the guest powers off.
export PATH=/bin HOME=/root TERM=linux PS1='guest:\w# '
[ -e /bin/mount ] || /bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
read -r uptime _ < /proc/uptime
read -r _ _ release _ < /proc/version
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

read -r line < /proc/cmdline
case " $line" in
*" xg.tty="*)
    size=${line##*xg.tty=}
    size=${size%% *}
    stty rows "${size%x*}" cols "${size#*x}" < "$console"
    ;;
esac
case " $line" in
*" xg.run="*)
    command=${line#*xg.run=}
    case $command in
    '"'*) command=${command#'"'} command=${command%%'"'*} ;;
    *) command=${command%% *} ;;
    esac
    sh -c "$command"
    echo "demo-initrd: the command ended with status $?"
    ;;
*)
    setsid -c sh -i < "$console" > "$console" 2>&1
    ;;
esac
poweroff -f
