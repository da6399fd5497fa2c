# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL += $(addprefix virtio/,virtio.c virtq.c virtq_split.c virtq_packed.c pci.c mmio.c \
             blk.c net.c console.c console_stream.c rng.c)
SRC_ALL += kernel/port.c
# Siblings: the block device over vhost-user, and how it comes to us.
SRC_ALL += $(addprefix virtio/device/,vring.c vdisk.c vhost.c sibling.c relay.c ivshmem.c)
# What only the loopback arrangement of the host form needs.
SRC_HOST += $(addprefix virtio/device/,loopback.c blk.c net.c console.c rng.c)
