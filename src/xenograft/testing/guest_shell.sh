#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The guest's side of `shell.py`: takes bytes from the console, and runs them as a script.
#
#     sh shell put|run TOKEN SIZE
#
# SIZE bytes of base64 follow once "[TOKEN go]" is printed, with the terminal in raw mode: so
# there is no echo, no line that's too long, and no character that means something to anybody.
# What a script wrote is sent as it is, behind a line that says how much there is and what its
# hash is.  If a message of the kernel's came in between, nobody says "k", and it is sent again
# while the kernel may say nothing but that it dies.

home=${0%/*}
token=$2
saved=$(stty -g)

send() {
    head -c "$out" "$home/out"
    head -c "$err" "$home/err"
}

stty raw -echo
echo "[$token go]"
head -c "$3" | base64 -d > "$home/$1"
stty "$saved"
if [ "$1" = run ]; then
    sh "$home/$1" < /dev/null > "$home/out" 2> "$home/err"
    status=$?
    stty raw -echo min 0 time 20
    printk=
    while :; do
        out=$(wc -c < "$home/out")
        err=$(wc -c < "$home/err")
        sum=$(send | sha256sum)
        echo "[$token" $status $out $err "${sum%% *}]"
        send
        [ "$(head -c 1)" = k ] && break
        [ "$printk" ] || read -r printk _ < /proc/sys/kernel/printk
        dmesg -n 1
    done
    [ "$printk" ] && dmesg -n "$printk"
    stty "$saved"
fi
echo "[$token done]"
