/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_IVSHMEM_HW_H
#define VIRTIO_DEVICE_IVSHMEM_HW_H
/* Inter-VM shared memory device, with doorbell. Source: QEMU, docs/specs/ivshmem-spec.txt. */

#define IVSHMEM_VENDOR     0x1af4u
#define IVSHMEM_DEVICE     0x1110u
#define IVSHMEM_REGISTERS  0u /* BAR */
#define IVSHMEM_MEMORY     2u /* BAR */
/* Registers, 32 bits each */
#define IVSHMEM_IVPOSITION 8u  /* our number; negative while there is none */
#define IVSHMEM_DOORBELL   12u /* write: peer << 16 | vector */
#define IVSHMEM_SIZE       16u
#endif
