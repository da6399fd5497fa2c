/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Virtqueues, driver's side: what does not depend on how a ring lies in memory. See virtq_split.c and
 * virtq_packed.c for that.
 *
 *     memory:  | ring, as its layout has it | tables: table_len descriptors for each slot |
 *
 * Events. The device is told at the end of the turn, once for all chains of the turn: queues with
 * news are in a list per loop that a turn hook walks. While we poll, no interrupt is wanted.
 *
 * Missing on purpose: in-order completion, queue reset.
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

void virtq_kick(struct virtq *q)
{
    uint16_t now = q->avail_idx, old = q->kicked_idx;
    if (now == old || q->dev->broken)
        return;
    q->kicked_idx = now;
    dma_mb();
    if (!q->op.wanted(q, now, old))
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

void virtq_kick_later(struct virtq *q)
{
    q->kick_pending = true;
    list_append(&kicks[q->loop].queues, &q->kick_link);
}

/* ---- Devices that make no sense -------------------------------------------------------------- */

void *virtq_broken(struct virtq *q, const char *what, unsigned number)
{
    virtio_fail(q->dev, "queue %u: %s (%u)", q->index, what, number);
    return NULL;
}

__attribute__((noinline, cold)) void *virtq_impossible(struct virtq *q, uint32_t slot,
                                                       uint32_t written)
{
    if (slot >= q->size)
        return virtq_broken(q, "completion of a slot that does not exist", slot);
    if (!q->slot[slot].token)
        return virtq_broken(q, "completion of a slot that is not in flight", slot);
    return virtq_broken(q, "more bytes written than there was room", written);
}

void *virtq_detach(struct virtq *q, uint16_t *id)
{
    for (unsigned i = 0; !virtq_idle(q) && i < q->size; i++) {
        void *token = q->slot[i].token;
        if (!token)
            continue;
        q->op.release(q, (uint16_t)i);
        *id = (uint16_t)i;
        return token;
    }
    return NULL;
}

/* ---- Interrupts ------------------------------------------------------------------------------ */

static void queue_arm(struct poller *p)
{
    struct virtq *q = virtq_of_poller(p);
    if (!q->quiet)
        virtq_arm(q);
}

/* Sleep is over. One queue also looks for what else the device may have to say. */
__attribute__((noinline)) static void disarm_and_look(struct virtq *q)
{
    virtq_disarm(q);
    virtio_events(q->dev);
}

static void queue_disarm(struct poller *p)
{
    struct virtq *q = virtq_of_poller(p);
    if (q->dev->events_queue == q)
        disarm_and_look(q);
    else
        virtq_disarm(q);
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

static int allocate(struct virtq *q)
{
    size_t ring = align_up(q->op.bytes(q), VRING_DESC_ALIGN);
    q->memory_len = ring + q->size * q->stride;
    q->memory = page_alloc_zeroed(q->memory_len);
    q->slot = sr_calloc(q->size, sizeof(*q->slot));
    if (q->indirect)
        q->tables = (struct vring_desc *)(void *)((uint8_t *)q->memory + ring);
    else if (q->op.scratch)
        q->tables = q->scratch = sr_calloc(q->size, sizeof(*q->scratch));
    return q->memory && q->slot && (q->tables || !q->op.scratch) ? 0 : SR_ENOMEM;
}

static const struct virtq_layout *layout_of(const struct virtio_device *d, bool indirect)
{
    if (!virtio_has(d, VIRTIO_F_RING_PACKED))
        return &virtq_split;
    return indirect ? &virtq_packed_tables : &virtq_packed_lists;
}

int virtq_init(struct virtq *q, unsigned size, unsigned table_len)
{
    ASSERT(is_pow2(size) && size <= VRING_MAX_SIZE);
    q->op = *layout_of(q->dev, table_len > 0);
    q->event_idx = virtio_has(q->dev, VIRTIO_F_EVENT_IDX);
    q->size = q->num_free = (uint16_t)size;
    q->mask = (uint16_t)(size - 1);
    q->indirect = table_len > 0;
    q->table_len = q->indirect ? table_len : size;
    q->stride = table_len * sizeof(struct vring_desc);
    if (allocate(q)) {
        virtq_free(q);
        return SR_ENOMEM;
    }
    list_init(&q->kick_link);
    for (unsigned i = 0; i < size; i++)
        q->slot[i].next = (uint16_t)(i + 1);
    q->op.lay_out(q, q->memory);
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
    sr_free(q->scratch);
    q->memory = NULL;
    q->slot = NULL;
    q->scratch = NULL;
}
