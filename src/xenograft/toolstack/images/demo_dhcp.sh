#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# What the demonstration guest's udhcpc does with an answer.
case $1 in
deconfig)
    ip -4 address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip -4 address flush dev "$interface"
    ip address add "$ip/${mask:-24}" dev "$interface"
    for address in $router; do
        ip route add default via "$address" dev "$interface"
    done
    : > /etc/resolv.conf
    for address in $dns; do
        echo "nameserver $address" >> /etc/resolv.conf
    done
    ;;
esac
