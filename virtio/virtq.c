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
 * Events. The device is told at the end of the turn, once for all chains of the turn: queues with
 * news are in a list per loop that a turn hook walks. While we poll, used_event is left behind, so
 * no interrupt comes; arming moves it to used_idx.
 *
 * Missing on purpose: packed rings (this interface will hold them), in-order completion, queue
 * reset.
 */
#include "virtio/virtq.h"

#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/page.h"
#include "virtio/virtio.h"

/* ---- Telling the device ---------------------------------------------------------------------- */

static struct kicks {
    struct turn_hook hook;
    struct list queues; /* virtq.kick_link */
} kicks[MAX_LOOPS];

static le16 *avail_event(const struct virtq *q)
{
    return (le16 *)(void *)&q->used->ring[q->size];
}
static le16 *used_event(const struct virtq *q)
{
    return &q->avail->ring[q->size];
}

void virtq_kick(struct virtq *q)
{
    uint16_t now = q->avail_idx, old = q->kicked_idx;
    if (now == old || q->dev->broken)
        return;
    q->kicked_idx = now;
    dma_mb();
    bool wanted = q->event_idx ? vring_need_event(vring_load(avail_event(q)), now, old)
                               : !(vring_load(&q->used->flags) & VRING_USED_NO_NOTIFY);
    if (!wanted)
        return;
    q->kicks++;
    q->dev->ops->notify(q->dev, q);
}

static void kick_all(struct turn_hook *h)
{
    struct kicks *k = container_of(h, struct kicks, hook);
    while (!list_empty(&k->queues)) {
        struct virtq *q = list_first(&k->queues, struct virtq, kick_link);
        list_remove(&q->kick_link);
        q->kick_pending = false;
        virtq_kick(q);
    }
}

static void kick_later(struct virtq *q)
{
    q->kick_pending = true;
    list_append(&kicks[q->loop].queues, &q->kick_link);
}

/* ---- Chains out, tokens back ----------------------------------------------------------------- */

void virtq_push_chain(struct virtq *q, unsigned id, unsigned count, struct vring_desc *last,
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
        kick_later(q);
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

static void *broken(struct virtq *q, const char *what, unsigned number)
{
    virtio_fail(q->dev, "queue %u: %s (%u)", q->index, what, number);
    return NULL;
}

/* Says what is wrong with an entry that failed the checks of virtq_pop. */
__attribute__((noinline, cold)) static void *impossible(struct virtq *q, uint32_t slot,
                                                        uint32_t written)
{
    if (slot >= q->size)
        return broken(q, "completion of a slot that does not exist", slot);
    if (!q->slot[slot].token)
        return broken(q, "completion of a slot that is not in flight", slot);
    return broken(q, "more bytes written than there was room", written);
}

void *virtq_pop(struct virtq *q, uint16_t *id, uint32_t *len)
{
    uint16_t ready = (uint16_t)(vring_load(&q->used->idx) - q->used_idx);
    if (!ready || unlikely(q->dev->broken))
        return NULL;
    if (unlikely(ready > q->inflight))
        return broken(q, "more completions than requests", ready);
    const struct vring_used_elem *e = &q->used->ring[q->used_idx & q->mask];
    uint32_t slot = le32_get(e->id), written = le32_get(e->len);
    if (unlikely(slot >= q->size))
        return impossible(q, slot, written);
    struct virtq_slot *s = &q->slot[slot];
    void *token = s->token;
    if (unlikely(!token || written > s->writable))
        return impossible(q, slot, written);
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

void *virtq_detach(struct virtq *q, uint16_t *id)
{
    for (unsigned i = 0; q->inflight && i < q->size; i++) {
        void *token = q->slot[i].token;
        if (!token)
            continue;
        release_chain(q, (uint16_t)i);
        *id = (uint16_t)i;
        return token;
    }
    return NULL;
}

/* ---- Interrupts ------------------------------------------------------------------------------ */

void virtq_arm(struct virtq *q)
{
    if (q->event_idx)
        vring_store(used_event(q), q->used_idx);
    else
        vring_store(&q->avail->flags, 0);
    dma_mb();
}

void virtq_disarm(struct virtq *q)
{
    if (!q->event_idx)
        vring_store(&q->avail->flags, VRING_AVAIL_NO_INTERRUPT);
}

static void queue_arm(struct poller *p)
{
    struct virtq *q = virtq_of_poller(p);
    if (!q->quiet)
        virtq_arm(q);
}

/* Sleep is over. One queue also looks for what else the device may have to say. */
static void queue_disarm(struct poller *p)
{
    struct virtq *q = virtq_of_poller(p);
    virtq_disarm(q);
    if (q->dev->events_queue == q)
        virtio_events(q->dev);
}

/* The hook of a loop is added on that loop, with its first queue; hooks stay for ever. */
static void kicks_init(unsigned loop)
{
    struct kicks *k = &kicks[loop];
    if (k->hook.run)
        return;
    list_init(&k->queues);
    k->hook.run = kick_all;
    turn_hook_add(&k->hook);
}

static void queue_start(struct loop_job *job)
{
    struct virtq *q = container_of(job, struct virtq, start);
    kicks_init(q->loop);
    poller_add(&q->poller);
}

void virtq_start(struct virtq *q, bool (*poll)(struct poller *p))
{
    q->poller = (struct poller){.poll = poll, .arm = queue_arm, .disarm = queue_disarm};
    if (!q->dev->events_queue && q->loop == 0)
        q->dev->events_queue = q;
    if (q->loop == loop_id()) {
        poller_add(&q->poller);
        return;
    }
    q->start.run = queue_start;
    loop_post(q->loop, &q->start);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static void link_slots(struct virtq *q)
{
    for (unsigned i = 0; i < q->size; i++) {
        q->slot[i].next = (uint16_t)(i + 1);
        if (!q->tables)
            continue;
        struct vring_desc *table = q->tables + (size_t)i * q->table_len;
        le64_set(&q->desc[i].addr, dma_map(table, q->table_len * sizeof(*table)));
        le16_set(&q->desc[i].flags, VRING_DESC_INDIRECT);
        for (unsigned k = 0; k < q->table_len; k++)
            le16_set(&table[k].next, (uint16_t)(k + 1));
    }
}

int virtq_init(struct virtq *q, unsigned size, unsigned table_len, bool event_idx)
{
    ASSERT(is_pow2(size) && size <= VRING_MAX_SIZE);
    size_t avail = VRING_DESC_BYTES(size);
    size_t used = align_up(avail + VRING_AVAIL_BYTES(size), 4);
    size_t tables = align_up(used + VRING_USED_BYTES(size), VRING_DESC_ALIGN);
    q->memory_len = tables + (size_t)size * table_len * sizeof(struct vring_desc);
    q->memory = page_alloc_zeroed(q->memory_len);
    q->slot = sr_calloc(size, sizeof(*q->slot));
    if (!q->memory || !q->slot) {
        virtq_free(q);
        return SR_ENOMEM;
    }
    uint8_t *m = q->memory;
    q->desc = (struct vring_desc *)(void *)m;
    q->avail = (struct vring_avail *)(void *)(m + avail);
    q->used = (struct vring_used *)(void *)(m + used);
    q->tables = table_len ? (struct vring_desc *)(void *)(m + tables) : NULL;
    q->table_len = table_len;
    q->size = q->num_free = (uint16_t)size;
    q->mask = (uint16_t)(size - 1);
    q->event_idx = event_idx;
    list_init(&q->kick_link);
    link_slots(q);
    vring_store(used_event(q), UINT16_MAX);
    virtq_disarm(q);
    if (q->loop == loop_id())
        kicks_init(q->loop);
    return 0;
}

void virtq_stop(struct virtq *q)
{
    if (q->kick_pending)
        list_remove(&q->kick_link);
    if (q->poller.link.next)
        poller_remove(&q->poller);
}

void virtq_free(struct virtq *q)
{
    if (q->memory)
        page_free(q->memory, q->memory_len);
    sr_free(q->slot);
    q->memory = NULL;
    q->slot = NULL;
}
