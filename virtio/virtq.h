/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_VIRTQ_H
#define VIRTIO_VIRTQ_H
/*
 * A virtqueue, driver's side. Drivers see chains of buffers going out and tokens coming back; how
 * that lies in memory, a split ring (virtq_split.c) or a packed one (virtq_packed.c), was negotiated,
 * and is chosen once, when the queue is made.
 *
 *     struct virtq_chain c;
 *     if (!virtq_begin(q, &c, nseg))              full (or the device is broken): wait, do not drop
 *         ...
 *     virtq_out(&c, header, 16);                  first all that the device reads ...
 *     virtq_in(&c, buffer, 4096);                 ... then all that it writes
 *     virtq_push(q, &c, token);                   the device may work on it from here on
 *     ...
 *     while ((token = virtq_pop(q, &id, &len)))   in any order; len: bytes that the device wrote
 *
 * A token is any pointer but NULL; the memory of a chain belongs to the device from push to pop.
 * c.id is the slot, 0 .. size-1, not in use by any other chain until it is popped: drivers keep
 * headers in arrays of `size`. The device hears of new chains once, at the end of the loop turn
 * (virtq_kick: now), and only when it asked to (event index).
 *
 * Trust. Whatever the device writes is checked before it is used: an index that jumps, an id out of
 * range or not in flight, more bytes than were writable. Any of these breaks the device for good
 * (virtio_fail): it is reset, and the driver gets its chains back by virtq_detach.
 *
 * Context: a queue belongs to one loop; everything here runs there. No call yields.
 */
#include "kernel/dma.h"
#include "kernel/log.h"
#include "kernel/loop.h"
#include "virtio/virtio_spec.h"

struct virtio_device;
struct virtq;

struct virtq_slot { /* ours alone: nothing here comes from the device */
    void *token;    /* NULL: not in flight */
    uint32_t writable;
    uint16_t next; /* free list, and of a split ring without indirect tables the chain */
    union {
        uint16_t tail;  /* split: last descriptor of the chain */
        uint16_t count; /* packed: descriptors of the ring that the chain takes */
    };
};
/* What differs between the layouts of a ring. */
struct virtq_layout {
    size_t (*bytes)(const struct virtq *q); /* of the ring, without tables */
    /* Into that many zeroed bytes. Sets the three addresses and all that the device looks at. */
    void (*lay_out)(struct virtq *q, uint8_t *memory);
    void (*push)(struct virtq *q, unsigned id, unsigned count, struct vring_desc *last,
                 uint32_t writable, void *token);
    void *(*pop)(struct virtq *q, uint16_t *id, uint32_t *len);
    void (*release)(struct virtq *q, uint16_t id); /* a chain that is no longer in flight */
    /* Does the device want to hear of what was pushed when avail_idx went from `old` to `now`? */
    bool (*wanted)(const struct virtq *q, uint16_t now, uint16_t old);
    void (*arm)(struct virtq *q);
    void (*disarm)(struct virtq *q); /* NULL: arm asks for one interrupt only */
    uint8_t flags_at;                /* where a descriptor of a table has its flags, */
    uint16_t more;                   /* and what says that another follows */
    bool scratch; /* without indirect tables, chains are not made where the device looks */
};
extern const struct virtq_layout virtq_split, virtq_packed_tables, virtq_packed_lists;

struct virtq {
    struct virtq_layout op; /* a copy: one load less for each call */
    union {
        struct { /* split */
            struct vring_desc *desc;
            struct vring_avail *avail;
            struct vring_used *used;
            uint16_t used_idx; /* free-running */
            uint16_t inflight; /* chains */
        };
        struct { /* packed */
            struct vring_packed_desc *ring, *end, *avail_at;
            const struct vring_packed_desc *used_at;
            struct vring_event *driver_event, *device_event;
            uint64_t table_addr;
            uint64_t avail_bits; /* of the word with length, id and flags: this lap's */
            uint64_t used_bits;
        };
    };
    struct vring_desc *tables; /* where chains are made; NULL: in desc[] */
    size_t stride;             /* bytes from the table of a slot to that of the next */
    struct virtq_slot *slot;
    unsigned table_len;
    bool indirect; /* chains lie in tables, and take one descriptor of the ring */
    uint16_t size, mask;
    uint16_t free_head, num_free; /* free slots, free descriptors of the ring */
    uint16_t avail_idx; /* free-running; a split ring's counts chains, a packed one's descriptors */
    uint16_t kicked_idx; /* avail_idx when the device was last told */
    bool event_idx, kick_pending;
    bool quiet; /* do not ask for interrupts before sleeping */
    struct list kick_link;
    struct virtio_device *dev;
    uint16_t index;
    unsigned loop;
    uint64_t desc_addr, driver_addr, device_addr; /* of the areas, for the device */
    volatile void *notify;                        /* the transport's */
    void *memory;                                 /* of the ring and tables, as allocated */
    size_t memory_len;
    struct vring_desc *scratch; /* packed, without indirect tables: where chains are made */
    struct poller poller;
    struct loop_job start;
    uint64_t kicks; /* notifications sent */
};

/* A chain in the making. It stays in registers: nothing takes its address, and what is stored into
 * descriptors may, for all the compiler knows, alias what has one. */
struct virtq_chain {
    struct vring_desc *next, *last;
    const struct virtq *q;
    bool listed; /* in desc[], linked as the free list is; else in a table, and linked already */
    bool single; /* known, when it was compiled, to have one piece */
    uint32_t writable;
    uint16_t last_flags, id;
    unsigned max, count;
};

/* Room for a chain of nseg pieces now? Without indirect tables each piece takes a descriptor. */
static inline bool virtq_has_room(const struct virtq *q, unsigned nseg)
{
    return q->num_free >= (q->indirect ? 1 : nseg);
}
/* Nothing is in flight. */
static inline bool virtq_idle(const struct virtq *q)
{
    return q->num_free == q->size;
}
/* False: no room. nseg is the most that will be added. */
static inline bool virtq_begin(struct virtq *q, struct virtq_chain *c, unsigned nseg)
{
    if (unlikely(!virtq_has_room(q, nseg)))
        return false;
    uint16_t id = q->free_head;
    *c = (struct virtq_chain){.id = id, .q = q};
    c->single = __builtin_constant_p(nseg) && nseg == 1;
    if (likely(q->tables != NULL)) {
        c->next = (struct vring_desc *)(void *)((uint8_t *)q->tables + id * q->stride);
        c->max = q->table_len;
    } else {
        c->next = q->desc + id;
        c->listed = true;
        c->max = q->num_free;
    }
    return true;
}
static inline le16 *virtq_flags(const struct virtq_chain *c, struct vring_desc *d)
{
    return (le16 *)(void *)((uint8_t *)d + c->q->op.flags_at);
}
static inline void virtq_add(struct virtq_chain *c, const void *p, size_t len, uint16_t flags)
{
    ASSERT(c->count < c->max);
    struct vring_desc *d = c->next;
    le64_set(&d->addr, dma_map(p, len));
    le32_set(&d->len, (uint32_t)len);
    le16_set(virtq_flags(c, d), c->single ? flags : flags | c->q->op.more);
    c->last = d;
    c->last_flags = flags;
    c->count++;
    c->next = d + 1;
    if (!c->single && unlikely(c->listed)) {
        uint16_t i = c->q->slot[d - c->q->desc].next;
        c->next = c->q->desc + i;
        le16_set(&d->next, i);
    }
}
static inline void virtq_out(struct virtq_chain *c, const void *p, size_t len)
{
    virtq_add(c, p, len, 0);
}
static inline void virtq_in(struct virtq_chain *c, void *p, size_t len)
{
    c->writable += (uint32_t)len;
    virtq_add(c, p, len, VRING_DESC_WRITE);
}
static inline void virtq_push(struct virtq *q, const struct virtq_chain *c, void *token)
{
    if (!c->single)
        le16_set(virtq_flags(c, c->last), c->last_flags);
    q->op.push(q, c->id, c->count, c->last, c->writable, token);
}
/* NULL: nothing (more) completed. */
static inline void *virtq_pop(struct virtq *q, uint16_t *id, uint32_t *len)
{
    return q->op.pop(q, id, len);
}
void virtq_kick(struct virtq *q);

/* Asks for an interrupt at the next completion; poll once more afterwards. */
static inline void virtq_arm(struct virtq *q)
{
    q->op.arm(q);
}
static inline void virtq_disarm(struct virtq *q)
{
    if (q->op.disarm)
        q->op.disarm(q);
}
/* Polls the queue on its loop from now on; on another loop nothing is pushed before. `poll` finds
 * the queue by virtq_of_poller. */
void virtq_start(struct virtq *q, bool (*poll)(struct poller *p));
static inline struct virtq *virtq_of_poller(struct poller *p)
{
    return container_of(p, struct virtq, poller);
}

/* After the device has stopped: one chain that was in flight, NULL when there is none left. */
void *virtq_detach(struct virtq *q, uint16_t *id);

/* By virtio.c, when features are negotiated. size is a power of two. table_len: pieces per chain, 0:
 * no indirect tables. SR_ENOMEM. */
int virtq_init(struct virtq *q, unsigned size, unsigned table_len);
void virtq_stop(struct virtq *q); /* on its loop: no more polls and kicks */
void virtq_free(struct virtq *q); /* loop 0 */

/* By the layouts. The device is told of what was pushed at the end of the turn. */
void virtq_kick_later(struct virtq *q);
/* Breaks the device, and says what is wrong with a completion: always NULL. */
void *virtq_impossible(struct virtq *q, uint32_t slot, uint32_t written);
void *virtq_broken(struct virtq *q, const char *what, unsigned number);
#endif
