/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_MMIO_SPEC_H
#define VIRTIO_MMIO_SPEC_H
/* Virtio over MMIO, version 2, and what version 1 has instead. Source: virtio 1.2, 4.2.2 and 4.2.4.
 * Registers are 32 bits wide. */

#define VIRTIO_MMIO_MAGIC               0x000u
#define VIRTIO_MMIO_MAGIC_VALUE         0x74726976u
#define VIRTIO_MMIO_VERSION             0x004u
#define VIRTIO_MMIO_DEVICE_ID           0x008u
#define VIRTIO_MMIO_DEVICE_FEATURES     0x010u
#define VIRTIO_MMIO_DEVICE_FEATURES_SEL 0x014u
#define VIRTIO_MMIO_DRIVER_FEATURES     0x020u
#define VIRTIO_MMIO_DRIVER_FEATURES_SEL 0x024u
#define VIRTIO_MMIO_GUEST_PAGE_SIZE     0x028u /* version 1 */
#define VIRTIO_MMIO_QUEUE_SEL           0x030u
#define VIRTIO_MMIO_QUEUE_NUM_MAX       0x034u
#define VIRTIO_MMIO_QUEUE_NUM           0x038u
#define VIRTIO_MMIO_QUEUE_ALIGN         0x03cu /* version 1: of the used ring */
#define VIRTIO_MMIO_QUEUE_PFN           0x040u /* version 1: in units of GUEST_PAGE_SIZE */
#define VIRTIO_MMIO_QUEUE_READY         0x044u
#define VIRTIO_MMIO_QUEUE_NOTIFY        0x050u
#define VIRTIO_MMIO_INTERRUPT_STATUS    0x060u
#define VIRTIO_MMIO_INTERRUPT_ACK       0x064u
#define VIRTIO_MMIO_STATUS              0x070u
#define VIRTIO_MMIO_QUEUE_DESC          0x080u /* low; high at + 4 */
#define VIRTIO_MMIO_QUEUE_DRIVER        0x090u
#define VIRTIO_MMIO_QUEUE_DEVICE        0x0a0u
#define VIRTIO_MMIO_CONFIG_GENERATION   0x0fcu
#define VIRTIO_MMIO_CONFIG              0x100u
#endif
