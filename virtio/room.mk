SRC_ALL += virtio/virtio.c virtio/virtq.c virtio/pci.c virtio/mmio.c virtio/blk.c
