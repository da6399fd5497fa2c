/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_VIRTIO_SPEC_H
#define VIRTIO_VIRTIO_SPEC_H
/* What all virtio devices have in common. Source: virtio 1.2, sections 2.1 (status), 2.7 (split
 * rings), 2.8 (packed rings), 5 (device types), 6 (feature bits). All integers are little-endian. */
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
#define VIRTIO_F_ANY_LAYOUT       27 /* legacy */
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

/* 2.8.13 descriptor of a packed ring, and of an indirect table (of whose flags only WRITE counts) */
#define VRING_PACKED_AVAIL 0x0080u
#define VRING_PACKED_USED  0x8000u
#define VRING_PACKED_BITS  (VRING_PACKED_AVAIL | VRING_PACKED_USED)
struct vring_packed_desc {
    le64 addr;
    le32 len;
    le16 id;
    le16 flags;
};
static_assert(sizeof(struct vring_packed_desc) == 16, "2.8.13");

/* 2.8.14 event suppression */
#define VRING_EVENT_ENABLE  0u
#define VRING_EVENT_DISABLE 1u
#define VRING_EVENT_DESC    2u /* at that descriptor only; with EVENT_IDX */
struct vring_event {
    le16 off_wrap;
    le16 flags;
};
static_assert(sizeof(struct vring_event) == 4, "2.8.14");
#define VRING_EVENT_ALIGN 4u
#define VRING_EVENT_WRAP  0x8000u /* the wrap counter, in off_wrap */

/*
 * Positions in a packed ring of a power of two are kept as free-running counters: the low bits are the
 * offset, the bit above them is the inverse of the wrap counter (which starts as 1).
 */
static inline uint16_t vring_packed_avail_bits(uint16_t at, unsigned size)
{
    return at & size ? VRING_PACKED_USED : VRING_PACKED_AVAIL;
}
static inline uint16_t vring_packed_used_bits(uint16_t at, unsigned size)
{
    return at & size ? 0 : VRING_PACKED_BITS;
}
/* Length, id and flags lie in one aligned word, from the lowest bits on: who reads it at once reads
 * what belongs together, and who writes it at once needs no order within it. */
typedef uint64_t __attribute__((may_alias)) vring_word64;
static inline uint64_t vring_packed_load(const struct vring_packed_desc *d)
{
    return __atomic_load_n((const vring_word64 *)(const void *)&d->len, __ATOMIC_ACQUIRE);
}
static inline void vring_packed_store(struct vring_packed_desc *d, uint64_t word)
{
    __atomic_store_n((vring_word64 *)(void *)&d->len, word, __ATOMIC_RELEASE);
}
static inline uint64_t vring_packed_word(uint32_t len, uint16_t id, uint16_t flags)
{
    return len | (uint64_t)id << 32 | (uint64_t)flags << 48;
}
/* The same for event suppression. */
typedef uint32_t __attribute__((may_alias)) vring_word32;
static inline void vring_event_store(struct vring_event *e, unsigned flags, unsigned off_wrap)
{
    __atomic_store_n((vring_word32 *)(void *)e, off_wrap | flags << 16, __ATOMIC_RELEASE);
}
static inline unsigned vring_packed_off_wrap(uint16_t at, unsigned size)
{
    return (at & (size - 1)) | (at & size ? 0 : VRING_EVENT_WRAP);
}
/* Does who wrote `e` want to hear that the position went from `old` to `now`? */
static inline int vring_event_wanted(const struct vring_event *e, unsigned size, uint16_t now,
                                     uint16_t old)
{
    uint32_t v = __atomic_load_n((const vring_word32 *)(const void *)e, __ATOMIC_ACQUIRE);
    if ((v >> 16 & 3) != VRING_EVENT_DESC)
        return (v >> 16 & 3) != VRING_EVENT_DISABLE;
    unsigned event = (v & (VRING_EVENT_WRAP - 1)) + (v & VRING_EVENT_WRAP ? 0 : size);
    unsigned lap = 2 * size - 1;
    return ((now - event - 1) & lap) < (uint16_t)(now - old);
}
#endif
