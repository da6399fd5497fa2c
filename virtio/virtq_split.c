/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The split ring (virtio 1.2, 2.7), driver's side.
 *
 *      desc[size]            avail                      used (written by the device)
 *     +-----------+         +-------------------+      +------------------------------+
 *     | 0: -> t0  |         | idx  -> next free |      | idx  -> next the device fills|
 *     | 1: -> t1  |         | ring[idx & mask]  |      | ring[idx & mask] = id, len   |
 *     | ...       |         | used_event        |      | avail_event                  |
 *     +-----------+         +-------------------+      +------------------------------+
 *           |
 *           v  tables: table_len descriptors per slot, at a fixed place; desc[i] always points to
 *     +-----------+    table i, so a request writes its pieces and one length; links are there already
 *     | hdr | data ... | status |
 *
 * Without VIRTIO_F_INDIRECT_DESC, or for queues whose buffers are single pieces, the chain lies in
 * desc[] itself, linked in the order of the free list.
 *
 * Invariants. The free list, the tokens and the links of a chain are in `slot`, memory that no
 * device was told of: a device can put wrong numbers into `used`, never wrong links into our lists.
 * `inflight` bounds how far used->idx may be ahead of used_idx.
 *
 * Order. Descriptors before ring[] before idx (release); idx before reading avail_event (full
 * barrier, in kick); used->idx (acquire) before the entries; used_event before the last look at
 * used->idx (full barrier, in arm). 2.7.13.
 *
 * Events. While we poll, used_event is left behind, so no interrupt comes; arming moves it to
 * used_idx.
 *
 * A legacy device (2.7.2) is told of one address only: the used ring lies on the next page.
 */
#include "virtio/virtq.h"

#include "kernel/page.h"
#include "virtio/virtio.h"

static le16 *avail_event(const struct virtq *q)
{
    return (le16 *)(void *)&q->used->ring[q->size];
}
static le16 *used_event(const struct virtq *q)
{
    return &q->avail->ring[q->size];
}

static bool wanted(const struct virtq *q, uint16_t now, uint16_t old)
{
    if (q->event_idx)
        return vring_need_event(vring_load(avail_event(q)), now, old);
    return !(vring_load(&q->used->flags) & VRING_USED_NO_NOTIFY);
}

/* ---- Chains out, tokens back ----------------------------------------------------------------- */

static void push(struct virtq *q, unsigned id, unsigned count, struct vring_desc *last,
                 uint32_t writable, void *token)
{
    struct virtq_slot *s = &q->slot[id];
    s->token = token;
    s->writable = writable;
    if (likely(q->tables != NULL)) {
        le32_set(&q->desc[id].len, count * (uint32_t)sizeof(struct vring_desc));
        q->free_head = s->next;
        q->num_free--;
    } else {
        s->tail = (uint16_t)(last - q->desc);
        q->free_head = q->slot[s->tail].next;
        q->num_free = (uint16_t)(q->num_free - count);
    }
    q->inflight++;
    le16_set(&q->avail->ring[q->avail_idx & q->mask], (uint16_t)id);
    vring_store(&q->avail->idx, ++q->avail_idx);
    if (!q->kick_pending)
        virtq_kick_later(q);
}

/* The descriptors of a chain that is no longer in flight go to the front of the free list. */
static void release_chain(struct virtq *q, uint16_t id)
{
    struct virtq_slot *s = &q->slot[id];
    uint16_t n = 1;
    if (!q->tables)
        for (uint16_t i = id; i != s->tail; i = q->slot[i].next)
            n++;
    q->slot[q->tables ? id : s->tail].next = q->free_head;
    q->free_head = id;
    q->num_free = (uint16_t)(q->num_free + n);
    s->token = NULL;
    q->inflight--;
}

static void *pop(struct virtq *q, uint16_t *id, uint32_t *len)
{
    uint16_t ready = (uint16_t)(vring_load(&q->used->idx) - q->used_idx);
    if (!ready || unlikely(q->dev->broken))
        return NULL;
    if (unlikely(ready > q->inflight))
        return virtq_broken(q, "more completions than requests", ready);
    const struct vring_used_elem *e = &q->used->ring[q->used_idx & q->mask];
    uint32_t slot = le32_get(e->id), written = le32_get(e->len);
    if (unlikely(slot >= q->size))
        return virtq_impossible(q, slot, written);
    struct virtq_slot *s = &q->slot[slot];
    void *token = s->token;
    if (unlikely(!token || written > s->writable))
        return virtq_impossible(q, slot, written);
    q->used_idx++;
    *id = (uint16_t)slot;
    *len = written;
    if (likely(q->tables != NULL)) {
        s->token = NULL;
        s->next = q->free_head;
        q->free_head = (uint16_t)slot;
        q->num_free++;
        q->inflight--;
    } else {
        release_chain(q, (uint16_t)slot);
    }
    return token;
}

/* ---- Interrupts ------------------------------------------------------------------------------ */

static void arm(struct virtq *q)
{
    if (q->event_idx)
        vring_store(used_event(q), q->used_idx);
    else
        vring_store(&q->avail->flags, 0);
    dma_mb();
}

static void disarm(struct virtq *q)
{
    vring_store(&q->avail->flags, VRING_AVAIL_NO_INTERRUPT);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static size_t used_at(const struct virtq *q)
{
    size_t end = VRING_DESC_BYTES(q->size) + VRING_AVAIL_BYTES(q->size);
    return align_up(end, q->dev->legacy ? PAGE_SIZE : 4);
}

static size_t bytes(const struct virtq *q)
{
    return used_at(q) + VRING_USED_BYTES(q->size);
}

static void link_tables(struct virtq *q)
{
    for (unsigned i = 0; i < q->size; i++) {
        struct vring_desc *table = q->tables + (size_t)i * q->table_len;
        le64_set(&q->desc[i].addr, dma_map(table, q->stride));
        le16_set(&q->desc[i].flags, VRING_DESC_INDIRECT);
        for (unsigned k = 0; k < q->table_len; k++)
            le16_set(&table[k].next, (uint16_t)(k + 1));
    }
}

static void lay_out(struct virtq *q, uint8_t *m)
{
    q->desc = (struct vring_desc *)(void *)m;
    q->avail = (struct vring_avail *)(void *)(m + VRING_DESC_BYTES(q->size));
    q->used = (struct vring_used *)(void *)(m + used_at(q));
    q->desc_addr = dma_map(q->desc, VRING_DESC_BYTES(q->size));
    q->driver_addr = dma_map(q->avail, VRING_AVAIL_BYTES(q->size));
    q->device_addr = dma_map(q->used, VRING_USED_BYTES(q->size));
    if (q->tables)
        link_tables(q);
    vring_store(used_event(q), UINT16_MAX);
    if (q->event_idx)
        q->op.disarm = NULL;
    virtq_disarm(q);
}

const struct virtq_layout virtq_split = {
    .bytes = bytes,
    .lay_out = lay_out,
    .push = push,
    .pop = pop,
    .release = release_chain,
    .wanted = wanted,
    .arm = arm,
    .disarm = disarm,
    .flags_at = offsetof(struct vring_desc, flags),
    .more = VRING_DESC_NEXT,
};
