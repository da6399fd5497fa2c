/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_PCI_SPEC_H
#define VIRTIO_PCI_SPEC_H
/* Virtio over PCI. Source: virtio 1.2, 4.1. Structures in BARs are read and written one register
 * at a time, each with its own width (4.1.3.1): offsets, not structs. */
#include <stdint.h>

#define VIRTIO_PCI_VENDOR                0x1af4u
#define VIRTIO_PCI_DEVICE_FIRST          0x1000u /* transitional: type in the subsystem id */
#define VIRTIO_PCI_DEVICE_BASE           0x1040u /* + type */
#define VIRTIO_PCI_DEVICE_LAST           0x107fu

/* 4.1.4 capability, in PCI configuration space */
#define VIRTIO_PCI_CAP_ID                0x09u
#define VIRTIO_PCI_CAP_NEXT              1u /* byte offsets */
#define VIRTIO_PCI_CAP_LEN               2u
#define VIRTIO_PCI_CAP_TYPE              3u
#define VIRTIO_PCI_CAP_BAR               4u
#define VIRTIO_PCI_CAP_OFFSET            8u
#define VIRTIO_PCI_CAP_LENGTH            12u
#define VIRTIO_PCI_CAP_SIZE              16u
#define VIRTIO_PCI_CAP_MULTIPLIER        16u /* of the notify capability only */
#define VIRTIO_PCI_NOTIFY_SIZE           20u

#define VIRTIO_PCI_CAP_COMMON            1u
#define VIRTIO_PCI_CAP_NOTIFY            2u
#define VIRTIO_PCI_CAP_ISR               3u
#define VIRTIO_PCI_CAP_DEVICE            4u

/* 4.1.4.3 common configuration: offset (width in bits) */
#define VIRTIO_PCI_DEVICE_FEATURE_SELECT 0u  /* 32 */
#define VIRTIO_PCI_DEVICE_FEATURE        4u  /* 32 */
#define VIRTIO_PCI_DRIVER_FEATURE_SELECT 8u  /* 32 */
#define VIRTIO_PCI_DRIVER_FEATURE        12u /* 32 */
#define VIRTIO_PCI_CONFIG_VECTOR         16u /* 16 */
#define VIRTIO_PCI_NUM_QUEUES            18u /* 16 */
#define VIRTIO_PCI_STATUS                20u /* 8 */
#define VIRTIO_PCI_GENERATION            21u /* 8 */
#define VIRTIO_PCI_QUEUE_SELECT          22u /* 16 */
#define VIRTIO_PCI_QUEUE_SIZE            24u /* 16 */
#define VIRTIO_PCI_QUEUE_VECTOR          26u /* 16 */
#define VIRTIO_PCI_QUEUE_ENABLE          28u /* 16 */
#define VIRTIO_PCI_QUEUE_NOTIFY_OFF      30u /* 16 */
#define VIRTIO_PCI_QUEUE_DESC            32u /* 64, as two of 32 */
#define VIRTIO_PCI_QUEUE_DRIVER          40u
#define VIRTIO_PCI_QUEUE_DEVICE          48u
#define VIRTIO_PCI_COMMON_SIZE           56u
#define VIRTIO_PCI_NO_VECTOR             0xffffu
#endif
