# SPDX-License-Identifier: BSD-2-Clause
"""make run-sibling: a Linux guest whose disk is a qcow2 image inside the storage VM. Its shell is yours; `poweroff -f` ends it all.

IMAGE=my.qcow2 (written to!); the default is build/run/sibling.qcow2, made when missing.
"""
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, 'tests'))
import lib  # noqa: E402
import sibling  # noqa: E402

INIT = b'''#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /mnt
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
while read -r m; do insmod $m; done </mod/order
echo; echo "This is a Linux guest. Its disk comes out of the storage VM, where it is a qcow2 image:"
echo "/dev/vda: $(cat /sys/block/vda/size) sectors, serial $(cat /sys/block/vda/serial), $(cat /sys/block/vda/cache_type)"
echo "Try: mke2fs /dev/vda; mount -t ext4 /dev/vda /mnt; dd if=/dev/vda of=/dev/null bs=1M    The end: poweroff -f"
while true; do setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'; done
'''


def initramfs(path):
    order = sibling.modules('virtio_pci', 'virtio_blk', 'crc32c_generic', 'ext4')
    files = {x: (0o40755, b'') for x in ('bin', 'mod')}
    for f in order:
        files['mod/' + os.path.basename(f)] = (0o100644, open(f, 'rb').read())
    files['mod/order'] = (0o100644, ''.join(f'/mod/{os.path.basename(f)}\n' for f in order).encode())
    files['bin/busybox'] = (0o100755, open('/bin/busybox', 'rb').read())
    files['init'] = (0o100755, INIT)
    with open(path, 'wb') as f:
        f.write(sibling.cpio(files))
    return path


def main():
    run = os.path.join(lib.BUILD, 'run')
    os.makedirs(run, exist_ok=True)
    image = os.environ.get('IMAGE') or f'{run}/sibling.qcow2'
    if not os.path.exists(image):
        lib.run('qemu-img', 'create', '-q', '-f', 'qcow2', image, '1G')
        os.truncate(image, 1100 << 20)
    words = ('--blockdev driver=virtio-blk,node-name=d,serial=d0 --blockdev driver=qcow2,node-name=q,file=d,discard=unmap '
             '--export type=vhost-user-blk,id=demo,node-name=q,sibling=demo,writable=on')
    with sibling.Bridge('demo') as b, lib.VM(words, [image], net=None, extra=b.of_storage_vm()) as vm:
        print(vm.console())
        subprocess.run([
            'qemu-system-x86_64', '-accel', 'tcg', '-M', 'q35,memory-backend=m', '-cpu', 'max', '-m', b.size, '-nodefaults', '-no-user-config',
            '-object', f'memory-backend-file,id=m,size={b.size},mem-path={b.dir}/demo.memory,share=on',
            '-display', 'none', '-no-reboot', '-serial', 'mon:stdio', '-kernel', sibling.kernel()[0], '-initrd', initramfs(f'{run}/initramfs'),
            '-append', 'console=ttyS0 quiet panic=-1', '-chardev', f'socket,id=c,path={b.dir}/demo.vhost,reconnect=1',
            '-device', 'vhost-user-blk-pci,chardev=c'], check=False)
        vm.quit()
        print(vm.console()[-200:])


main()
