/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_VIRTIO_SPEC_H
#define VIRTIO_VIRTIO_SPEC_H
/* What all virtio devices have in common. Source: virtio 1.2, sections 2.1 (status), 2.7 (split
 * rings), 5 (device types), 6 (feature bits). All integers are little-endian. */
#include "kernel/endian.h"

#include <assert.h>

/* 2.1 device status */
#define VIRTIO_STATUS_ACKNOWLEDGE 1u
#define VIRTIO_STATUS_DRIVER      2u
#define VIRTIO_STATUS_DRIVER_OK   4u
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_NEEDS_RESET 64u
#define VIRTIO_STATUS_FAILED      128u

/* Bits of the interrupt status, 4.1.4.5 and 4.2.2 */
#define VIRTIO_ISR_QUEUE          1u
#define VIRTIO_ISR_CONFIG         2u

/* 6 feature bits */
#define VIRTIO_F_INDIRECT_DESC    28
#define VIRTIO_F_EVENT_IDX        29
#define VIRTIO_F_VERSION_1        32
#define VIRTIO_F_ACCESS_PLATFORM  33
#define VIRTIO_F_RING_PACKED      34
#define VIRTIO_F_ORDER_PLATFORM   36

/* 5 device types */
#define VIRTIO_ID_NET             1u
#define VIRTIO_ID_BLOCK           2u
#define VIRTIO_ID_CONSOLE         3u
#define VIRTIO_ID_ENTROPY         4u

/* 2.7.5 descriptor table */
#define VRING_DESC_NEXT           1u
#define VRING_DESC_WRITE          2u
#define VRING_DESC_INDIRECT       4u
struct vring_desc {
    le64 addr;
    le32 len;
    le16 flags;
    le16 next;
};
static_assert(sizeof(struct vring_desc) == 16, "2.7.5");

/* 2.7.6 available ring; behind ring[size] lies le16 used_event */
#define VRING_AVAIL_NO_INTERRUPT 1u
struct vring_avail {
    le16 flags;
    le16 idx;
    le16 ring[];
};
static_assert(sizeof(struct vring_avail) == 4, "2.7.6");

/* 2.7.8 used ring; behind ring[size] lies le16 avail_event */
#define VRING_USED_NO_NOTIFY 1u
struct vring_used_elem {
    le32 id;
    le32 len;
};
static_assert(sizeof(struct vring_used_elem) == 8, "2.7.8");
struct vring_used {
    le16 flags;
    le16 idx;
    struct vring_used_elem ring[];
};
static_assert(sizeof(struct vring_used) == 4, "2.7.8");

#define VRING_MAX_SIZE       32768u
#define VRING_DESC_ALIGN     16u
/* Bytes, with the event index behind the ring (present or not, the room is there). */
#define VRING_DESC_BYTES(n)  (16u * (n))
#define VRING_AVAIL_BYTES(n) (6u + 2u * (n))
#define VRING_USED_BYTES(n)  (6u + 8u * (n))

/* The words that both sides write while the other reads: one access each, in this order. */
typedef uint16_t __attribute__((may_alias)) vring_word;
static inline uint16_t vring_load(const le16 *p) /* what follows sees what preceded the store */
{
    return __atomic_load_n((const vring_word *)(const void *)p, __ATOMIC_ACQUIRE);
}
static inline void vring_store(le16 *p, uint16_t v) /* after everything that precedes */
{
    __atomic_store_n((vring_word *)(void *)p, v, __ATOMIC_RELEASE);
}
/* 2.7.10: was `event` passed when the index moved from `old` to `now`? */
static inline int vring_need_event(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}
#endif
