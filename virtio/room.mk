# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL += $(addprefix virtio/,virtio.c virtq.c virtq_split.c virtq_packed.c pci.c mmio.c \
             blk.c net.c console.c console_stream.c rng.c)
SRC_ALL += kernel/port.c
# Our devices: today only what the loopback arrangement of the host form needs.
SRC_HOST += $(addprefix virtio/device/,vring.c loopback.c blk.c net.c console.c rng.c)
