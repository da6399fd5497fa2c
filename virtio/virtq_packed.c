/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The packed ring (virtio 1.2, 2.8), driver's side. One ring for both directions:
 *
 *                    used_at                    avail_at
 *                       v                          v
 *     ring[size]  | .. | used | used | available ...|  ours, from one lap ago ..  |
 *                        id, len      -> table or piece, len, id
 *
 *     driver_event, device_event: when we want an interrupt, when the device wants a notification
 *
 * We write chains at avail_at, the device writes what it is done with at used_at, over descriptors
 * that it has read. Two bits in each descriptor say whose it is and of which lap: what we write there,
 * and what says that the device has written, is kept beside the pointers, and changes at each lap. A
 * chain that is used makes the device (and us) go forward by as many descriptors as it had.
 *
 * There are two layouts of chains. With indirect tables a chain is one descriptor, and its pieces are
 * in the table of its slot. Without them it is made in `scratch`, and copied into the ring when it is
 * complete, its head last: the device may not see a head before the rest.
 *
 * Invariants. Slots (buffer ids) and their tokens are in memory that no device was told of, as are the
 * lengths of chains; so a device can write wrong ids into the ring, but how far used_at goes is ours.
 * num_free counts descriptors; there are as many slots, so where there is room there is a slot.
 *
 * Order. Address before the word with length, id and flags (release); flags before reading
 * device_event (full barrier, in kick); used flags (acquire) with the id and length of the same word;
 * driver_event before the last look at the ring (full barrier, in arm). 2.8.21, 2.8.22.
 *
 * Missing on purpose: sizes that are no power of two, in-order completion.
 */
#include "virtio/virtq.h"

#include "virtio/virtio.h"

#define LAP ((uint64_t)VRING_PACKED_BITS << 48) /* what each lap changes in avail_bits */

static bool wanted(const struct virtq *q, uint16_t now, uint16_t old)
{
    return vring_event_wanted(q->device_event, q->size, now, old);
}

/* ---- Chains out ------------------------------------------------------------------------------ */

static inline void take_slot(struct virtq *q, unsigned id, uint32_t writable, void *token)
{
    struct virtq_slot *s = &q->slot[id];
    s->token = token;
    s->writable = writable;
    q->free_head = s->next;
}

static inline void advance_avail(struct virtq *q, struct vring_packed_desc *to, unsigned count)
{
    if (unlikely(to >= q->end)) {
        to -= q->size;
        q->avail_bits ^= LAP;
    }
    q->avail_at = to;
    q->avail_idx = (uint16_t)(q->avail_idx + count);
    q->num_free = (uint16_t)(q->num_free - count);
    if (!q->kick_pending)
        virtq_kick_later(q);
}

static void push_table(struct virtq *q, unsigned id, unsigned count, struct vring_desc *last,
                       uint32_t writable, void *token)
{
    struct vring_packed_desc *d = q->avail_at;
    (void)last;
    take_slot(q, id, writable, token);
    le64_set(&d->addr, q->table_addr + id * q->stride);
    vring_packed_store(d, (uint64_t)id << 32 | count * (uint32_t)sizeof(*d) |
                              (uint64_t)VRING_DESC_INDIRECT << 48 | q->avail_bits);
    advance_avail(q, d + 1, 1);
}

/* Descriptor i of a list goes to the i-th from avail_at. Its id is still zero. */
static inline void put(struct virtq *q, unsigned i, unsigned id)
{
    const struct vring_packed_desc *from = (const struct vring_packed_desc *)(void *)q->scratch + i;
    struct vring_packed_desc *d = q->avail_at + i;
    uint64_t bits = q->avail_bits;
    if (unlikely(d >= q->end)) {
        d -= q->size;
        bits ^= LAP;
    }
    le64_set(&d->addr, le64_get(from->addr));
    vring_packed_store(d, vring_packed_load(from) | (uint64_t)id << 32 | bits);
}

__attribute__((noinline)) static void put_long(struct virtq *q, unsigned id, unsigned count)
{
    ASSERT(count <= q->num_free);
    for (unsigned i = count; i-- > 0;)
        put(q, i, id);
    advance_avail(q, q->avail_at + count, count);
}

static void push_list(struct virtq *q, unsigned id, unsigned count, struct vring_desc *last,
                      uint32_t writable, void *token)
{
    (void)last;
    take_slot(q, id, writable, token);
    q->slot[id].count = (uint16_t)count;
    if (unlikely(count > 1)) {
        put_long(q, id, count);
        return;
    }
    put(q, 0, id);
    advance_avail(q, q->avail_at + 1, 1);
}

/* ---- Tokens back ----------------------------------------------------------------------------- */

static inline void release(struct virtq *q, uint16_t id, unsigned count)
{
    struct virtq_slot *s = &q->slot[id];
    s->token = NULL;
    s->next = q->free_head;
    q->free_head = id;
    q->num_free = (uint16_t)(q->num_free + count);
}

static void release_table(struct virtq *q, uint16_t id)
{
    release(q, id, 1);
}

static void release_list(struct virtq *q, uint16_t id)
{
    release(q, id, q->slot[id].count);
}

static inline void advance_used(struct virtq *q, unsigned count)
{
    const struct vring_packed_desc *to = q->used_at + count;
    if (unlikely(to >= q->end)) {
        to -= q->size;
        q->used_bits ^= VRING_PACKED_BITS;
    }
    q->used_at = to;
}

static inline void *pop(struct virtq *q, uint16_t *id, uint32_t *len, bool list)
{
    uint64_t word = vring_packed_load(q->used_at);
    if ((word >> 48 & VRING_PACKED_BITS) != q->used_bits || unlikely(q->dev->broken))
        return NULL;
    uint16_t slot = (uint16_t)(word >> 32);
    uint32_t written = (uint32_t)word;
    if (unlikely(slot >= q->size))
        return virtq_impossible(q, slot, written);
    struct virtq_slot *s = &q->slot[slot];
    void *token = s->token;
    if (unlikely(!token))
        return virtq_impossible(q, slot, written);
    if (unlikely(written > s->writable)) {
        if (word >> 48 & VRING_DESC_WRITE)
            return virtq_impossible(q, slot, written);
        written = 0; /* 2.8.5: nothing was written, and the length is reserved */
    }
    unsigned count = list ? s->count : 1;
    *id = slot;
    *len = written;
    advance_used(q, count);
    release(q, slot, count);
    return token;
}

static void *pop_table(struct virtq *q, uint16_t *id, uint32_t *len)
{
    return pop(q, id, len, false);
}

static void *pop_list(struct virtq *q, uint16_t *id, uint32_t *len)
{
    return pop(q, id, len, true);
}

/* ---- Interrupts ------------------------------------------------------------------------------ */

static void arm(struct virtq *q)
{
    unsigned off_wrap = (unsigned)(q->used_at - q->ring) | (q->used_bits & VRING_EVENT_WRAP);
    vring_event_store(q->driver_event, q->event_idx ? VRING_EVENT_DESC : VRING_EVENT_ENABLE,
                      off_wrap);
    dma_mb();
}

static void disarm(struct virtq *q)
{
    vring_event_store(q->driver_event, VRING_EVENT_DISABLE, 0);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* The two event structures are written by one side each: a cache line for each. */
static size_t bytes(const struct virtq *q)
{
    return align_up(VRING_DESC_BYTES(q->size), CACHE_LINE) + 2 * CACHE_LINE;
}

static void lay_out(struct virtq *q, uint8_t *m)
{
    uint8_t *events = m + align_up(VRING_DESC_BYTES(q->size), CACHE_LINE);
    q->ring = (struct vring_packed_desc *)(void *)m;
    q->end = q->ring + q->size;
    q->used_at = q->avail_at = q->ring;
    q->avail_bits = (uint64_t)VRING_PACKED_AVAIL << 48;
    q->used_bits = VRING_PACKED_BITS;
    q->driver_event = (struct vring_event *)(void *)events;
    q->device_event = (struct vring_event *)(void *)(events + CACHE_LINE);
    q->desc_addr = dma_map(q->ring, VRING_DESC_BYTES(q->size));
    q->driver_addr = dma_map(q->driver_event, sizeof(*q->driver_event));
    q->device_addr = dma_map(q->device_event, sizeof(*q->device_event));
    q->table_addr = dma_map(q->tables, q->size * q->stride);
    disarm(q);
}

const struct virtq_layout virtq_packed_tables = {
    .bytes = bytes,
    .lay_out = lay_out,
    .push = push_table,
    .pop = pop_table,
    .release = release_table,
    .wanted = wanted,
    .arm = arm,
    .disarm = disarm,
    .flags_at = offsetof(struct vring_packed_desc, flags),
    .more = 0, /* 2.8.7: all of the table counts, and is not linked */
};
const struct virtq_layout virtq_packed_lists = {
    .bytes = bytes,
    .lay_out = lay_out,
    .push = push_list,
    .pop = pop_list,
    .release = release_list,
    .wanted = wanted,
    .arm = arm,
    .disarm = disarm,
    .flags_at = offsetof(struct vring_packed_desc, flags),
    .more = VRING_DESC_NEXT,
    .scratch = true,
};
