#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First process of a driver domain: Linux's own block and network back ends, with what a hotplug
# script does for them.  Disks are served from its own block devices; network interfaces are
# plugged into the bridge xenbr0, with the address of the kernel's parameter xg.net=ADDRESS/PREFIX.
#
# busybox's uevent runs this same file for each event of the kernel, as `/init uevent`.

export PATH=/bin:/usr/bin HOME=/root TERM=linux PS1='driver:\w# '

hotplug() {
    [ "$SUBSYSTEM" = xen-backend ] || return
    case $XENBUS_TYPE.$ACTION in
    vbd.add)
        device=$(xenstore-read "$XENBUS_PATH/params") || return
        xenstore-write "$XENBUS_PATH/physical-device" "$(stat -c %t:%T "$device")" \
            "$XENBUS_PATH/hotplug-status" connected
        echo "serving $XENBUS_PATH from $device" > /dev/hvc0
        ;;
    vif.online)
        ip link set "$vif" up
        brctl addif xenbr0 "$vif"
        xenstore-write "$XENBUS_PATH/hotplug-status" connected
        echo "serving $XENBUS_PATH as $vif" > /dev/hvc0
        ;;
    esac
}

if [ "$1" = uevent ]; then
    hotplug
    exit
fi

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /lib/modules/*.ko; do
    insmod "$module"
done
read -r line < /proc/cmdline
brctl addbr xenbr0
ip link set xenbr0 up
case " $line " in
*" xg.net="*)
    address=${line#*xg.net=}
    ip address add "${address%% *}" dev xenbr0
    ;;
esac
uevent /init uevent > /dev/null 2>&1 &
# Devices that were waiting before anybody listened are announced again.
sleep 0.5
for device in /sys/bus/xen-backend/devices/*; do
    [ -e "$device/uevent" ] || continue
    echo add > "$device/uevent"
    echo online > "$device/uevent"
done
echo "backend-initrd: ready to serve"
while :; do
    setsid -c sh -i < /dev/hvc0 > /dev/hvc0 2>&1
done
