#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# make run: a demo volume inside a qcow2, served by the firmware in QEMU. Ctrl-C powers it off cleanly.
#   ARCH=aarch64  MACHINE=microvm  MEM=64  IMAGE=my.qcow2 (served read-only)   PORT=10809
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
build=$top/build/run
case ${ARCH:-x86_64} in
x86_64)
    machine=${MACHINE:-q35} firmware=strongroom.elf
    status='-device isa-debug-exit,iobase=0xf4,iosize=4' ;;
aarch64)
    machine=${MACHINE:-virt} firmware=strongroom.img
    status='-semihosting-config enable=on,target=native' ;;
*)
    echo "there is no firmware for ARCH=$ARCH" >&2
    exit 1 ;;
esac
mkdir -p "$build"

image=${IMAGE:-$build/demo.qcow2}
if [ ! -e "$image" ]; then
    echo "making $image with qemu-img"
    qemu-img create -q -f qcow2 "$image" 1G
    qemu-io -f qcow2 -c 'write -q -P 83 0 4M' -c 'write -q -c -P 82 8M 64k' "$image" >/dev/null
fi
scratch=$build/scratch.raw
[ -e "$scratch" ] || truncate -s 64M "$scratch"

port=${PORT:-$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
case $machine in
microvm*pcie=on*) bus=pci ;;
microvm*) bus=device ;;
*) bus=pci ;;
esac
words="--blockdev driver=virtio-blk,node-name=disk0,serial=demo
 --blockdev driver=qcow2,node-name=vol0,file=disk0,read-only=on
 --blockdev driver=virtio-blk,node-name=disk1,serial=scratch
 --nbd-server addr.type=inet,addr.host=0.0.0.0,addr.port=10809
 --export type=nbd,id=exp0,node-name=vol0,name=demo
 --export type=nbd,id=exp1,node-name=disk1,name=scratch,writable=on"

if [ -e "$build/pid" ] && kill -0 "$(cat "$build/pid")" 2>/dev/null; then
    echo "it runs already: process $(cat "$build/pid"), QMP at $build/qmp" >&2
    exit 1
fi
rm -f "$build/console" "$build/qmp"
# In a session of its own: Ctrl-C is for this script, which then asks for a clean power-off.
setsid qemu-system-"${ARCH:-x86_64}" -accel tcg -M "$machine" -cpu max -smp 1 -m "${MEM:-64}" -nodefaults -no-user-config -display none \
    -no-reboot -global virtio-mmio.force-legacy=false \
    -chardev stdio,id=c,mux=off,signal=off,logfile="$build/console" -serial chardev:c \
    -kernel "$top/build/${ARCH:-x86_64}/$firmware" -append "$(echo "$words" | tr -d '\n')" \
    -blockdev driver=file,node-name=f0,filename="$image",read-only=on,locking=off \
    -device virtio-blk-$bus,drive=f0,serial=demo \
    -blockdev driver=file,node-name=f1,filename="$scratch",discard=unmap -device virtio-blk-$bus,drive=f1,serial=scratch \
    -netdev user,id=n0,hostfwd=tcp:127.0.0.1:"$port"-:10809 -device virtio-net-$bus,netdev=n0 \
    -device virtio-serial-$bus -chardev socket,id=q0,path="$build/qmp",server=on,wait=off \
    -device virtserialport,chardev=q0,name=org.strongroom.qmp \
    -device virtio-rng-$bus $status </dev/null &
vm=$!
echo "$vm" >"$build/pid"

quit() {
    trap - INT TERM
    /usr/bin/python3 - "$build/qmp" <<'PY' || kill "$vm"
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(15)
s.connect(sys.argv[1])
f = s.makefile('rw')
f.readline()
for command in ('qmp_capabilities', 'quit'):
    f.write(json.dumps({'execute': command}) + '\n')
    f.flush()
    f.readline()
PY
}
trap quit INT TERM

for _ in $(seq 300); do
    grep -q 'ready: ' "$build/console" 2>/dev/null && break
    kill -0 "$vm" 2>/dev/null || break
    sleep .1
done
if grep -q 'ready: ' "$build/console" 2>/dev/null; then
    cat <<TEXT

  nbd://127.0.0.1:$port/demo       a qcow2 volume, read-only
  nbd://127.0.0.1:$port/scratch    a raw volume, writable

try:   nbdinfo nbd://127.0.0.1:$port/demo
       qemu-img map -f raw nbd://127.0.0.1:$port/demo
       qemu-io -f raw -c 'write -P 7 0 1M' -c 'read -P 7 0 1M' nbd://127.0.0.1:$port/scratch
QMP:   socat -t9 - UNIX-CONNECT:${build#"$PWD"/}/qmp
Ctrl-C powers it off.

TEXT
fi
status=0
wait "$vm" || status=$?
# A signal ends the first wait; the second one waits for the power-off.
if kill -0 "$vm" 2>/dev/null; then
    status=0
    wait "$vm" || status=$?
fi
rm -f "$build/pid"
exit "$status"
