/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The block device that siblings see (virtio 1.2, 5.2).
 *
 *     available ring --> request: a coroutine in the graph --> slot of `order` --> used ring
 *        (poller)            ends in any order                   (end of the turn)
 *
 * Payload stays where it is. The chain's segments are memory of ours (windows); what lies between
 * header and status goes down as one list of buffers, and the disk's controller gets its addresses.
 *
 * Order. Used entries are published in available order: `order` has a slot for each entry that was
 * taken, by its index, and publishing stops at the first that is not done. So a ring's used index
 * says exactly what is to be done again by whoever comes after us (hazard of a restart: an entry that
 * was published is never replayed, one that was not always is). A fast request may wait for a slow
 * one; its memory does not.
 *
 * Once per turn, at its end, all queues with something done are published, with one interrupt each
 * at most, if the driver's event index asks for it.
 *
 * Notifications are off while the loop turns, since the poller looks at the rings anyway; they are
 * asked for before the loop sleeps, and the rings looked at once more (kernel/loop.h).
 *
 * Requests. Each disk has VDISK_REQUESTS of its own, so no other export can take them; what finds
 * none stays in the ring. Stacks are everybody's: VDISK_OWN_STACKS requests run in any case, more
 * while the loop has stacks to spare.
 *
 * Cache mode (5.2.5, 5.2.6.2): write-back while the driver can flush and, where it may choose, has
 * not chosen otherwise; else each write is stable when it completes.
 *
 * Missing on purpose: zoned devices, secure erase, lifetime information, geometry.
 */
#include "virtio/device/vdisk.h"

#include "kernel/fault.h"
#include "kernel/page.h"

#define SECTOR              VIRTIO_BLK_SECTOR
#define VDISK_REQUESTS      64u
#define VDISK_OWN_STACKS    4u
#define VDISK_SEG_MAX       126u          /* what fits a ring of 128 with header and status */
#define VDISK_SIZE_MAX      (1u << 20)    /* of one segment; nothing here depends on it */
#define VDISK_RANGES        32u           /* of one discard or write zeroes */
#define VDISK_RANGE_SECTORS (1u << 21)    /* of each */
#define VDISK_REPORT_NS     1000000000ull /* between two events */

struct vdisk_request {
    struct qlink link;
    struct co_start start;
    struct vdisk_queue *q;
    uint16_t index;
    struct vchain chain;
};
struct vdisk_slot {
    struct vring_id id;
    uint32_t written;
    bool done;
};

static struct list dirty = LIST_INIT(dirty);

static void mark(struct vdisk_queue *q)
{
    if (list_empty(&q->dirty))
        list_append(&dirty, &q->dirty);
}

static unsigned index_of(const struct vdisk_queue *q)
{
    return (unsigned)(q - q->disk->queue);
}

static struct vdisk_slot *slot(struct vdisk_queue *q, uint16_t index)
{
    return &q->order[index & (VDISK_QUEUE_SIZE - 1)];
}

static bool has(const struct vdisk *d, unsigned bit)
{
    return d->features >> bit & 1;
}

/* ---- A queue that makes no sense -------------------------------------------------------------- */

struct broken_event {
    const char *id;
    int64_t queue;
    const char *reason;
};
static const struct field broken_fields[] = {
    FIELD_REQ(struct broken_event, id, "id", &type_str, "Export"),
    FIELD_REQ(struct broken_event, queue, "queue", &type_int, "Number of the queue"),
    FIELD_REQ(struct broken_event, reason, "reason", &type_str, "What its driver did"),
    {0},
};
static const struct type broken_type =
    TYPE_STRUCT_OF("ExportQueueBrokenInfo", struct broken_event, broken_fields);
static const struct event_def event_broken = {
    .name = "X_EXPORT_QUEUE_BROKEN",
    .data = &broken_type,
    .doc = "The driver of an exported device broke a rule: this queue rests until it is started "
           "anew",
};
REGISTER(event, event_broken);

static void report(struct vdisk *d, unsigned queue, const char *reason)
{
    struct broken_event e = {.id = d->id, .queue = queue, .reason = reason};
    log_limited("vdisk", "export %s: queue %u is broken: %s", d->id, queue, reason);
    if (d->reported_ns && loop_now() - d->reported_ns < VDISK_REPORT_NS)
        return;
    d->reported_ns = loop_now();
    event_emit(&event_broken, &e);
}

/* ---- What requests do ------------------------------------------------------------------------- */

static bool writes_back(const struct vdisk *d)
{
    return has(d, VIRTIO_BLK_F_FLUSH) && (!has(d, VIRTIO_BLK_F_CONFIG_WCE) || d->writeback);
}

static unsigned fua(const struct vdisk *d)
{
    return writes_back(d) ? 0 : BLK_FUA;
}

static uint8_t status_of(int rc)
{
    if (likely(!rc))
        return VIRTIO_BLK_S_OK;
    return rc == SR_ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* Whole logical blocks inside of the disk? */
static bool range_fits(const struct vdisk *d, uint64_t sector, uint64_t bytes)
{
    uint64_t capacity = d->origin->root->node->size / SECTOR;
    return !(bytes & (d->block_size - 1)) && !(sector & (d->block_size / SECTOR - 1)) &&
           range_ok(sector, bytes / SECTOR, capacity);
}

static uint8_t co_transfer(struct vdisk *d, uint64_t sector, struct iov v, bool write)
{
    struct child *root = d->origin->root;
    if (unlikely(!v.len || !range_fits(d, sector, v.len) || (write && !d->writable)))
        return VIRTIO_BLK_S_IOERR;
    return status_of(write ? co_blk_pwritev(root, sector * SECTOR, v, fua(d))
                           : co_blk_preadv(root, sector * SECTOR, v, 0));
}

static uint8_t co_one_range(struct vdisk *d, bool zeroes, const struct virtio_blk_range *r)
{
    uint32_t n = le32_get(r->num_sectors), flags = le32_get(r->flags);
    uint64_t sector = le64_get(r->sector), len = (uint64_t)n * SECTOR;
    if (flags & ~(zeroes ? VIRTIO_BLK_RANGE_UNMAP : 0))
        return VIRTIO_BLK_S_UNSUPP;
    if (n > VDISK_RANGE_SECTORS || !range_fits(d, sector, len))
        return VIRTIO_BLK_S_IOERR;
    if (!n)
        return VIRTIO_BLK_S_OK;
    if (!zeroes)
        return status_of(co_blk_pdiscard(d->origin->root, sector * SECTOR, len));
    return status_of(co_blk_pwrite_zeroes(d->origin->root, sector * SECTOR, len,
                                          fua(d) | (flags ? BLK_MAY_UNMAP : 0)));
}

static uint8_t co_ranges(struct vdisk *d, bool zeroes, struct iov v)
{
    struct virtio_blk_range r;
    uint8_t status = VIRTIO_BLK_S_OK;
    if (!d->writable || !v.len || v.len % sizeof(r) || v.len / sizeof(r) > VDISK_RANGES)
        return VIRTIO_BLK_S_IOERR;
    for (size_t at = 0; at < v.len && status == VIRTIO_BLK_S_OK; at += sizeof(r)) {
        iov_copy_out(&r, v, at, sizeof(r)); /* once: the driver may change it meanwhile */
        status = co_one_range(d, zeroes, &r);
    }
    return status;
}

static uint8_t get_id(const struct vdisk *d, struct iov in)
{
    char id[VIRTIO_BLK_ID_BYTES] = {0};
    memcpy(id, d->id, strnlen(d->id, sizeof(id)));
    iov_copy_in(in, 0, id, MIN(in.len, sizeof(id)));
    return VIRTIO_BLK_S_OK;
}

/* out: without the header; in: without the status. */
static uint8_t co_answer(struct vdisk *d, const struct virtio_blk_req *h, struct iov out,
                         struct iov in)
{
    switch (le32_get(h->type)) {
    case VIRTIO_BLK_T_IN:
        return co_transfer(d, le64_get(h->sector), in, false);
    case VIRTIO_BLK_T_OUT:
        return co_transfer(d, le64_get(h->sector), out, true);
    case VIRTIO_BLK_T_FLUSH:
        return status_of(co_blk_flush(d->origin->root));
    case VIRTIO_BLK_T_GET_ID:
        return get_id(d, in);
    case VIRTIO_BLK_T_DISCARD:
        return co_ranges(d, false, out);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return co_ranges(d, true, out);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* ---- The life of a request -------------------------------------------------------------------- */

static void finish(struct vdisk_request *r, uint8_t status)
{
    struct vdisk_queue *q = r->q;
    struct vdisk *d = q->disk;
    const struct seg *last = &r->chain.seg[r->chain.nout + r->chain.nin - 1];
    if (!q->silent)
        ((uint8_t *)last->base)[last->len - 1] = status;
    *slot(q, r->index) =
        (struct vdisk_slot){.id = r->chain.id, .done = true, .written = (uint32_t)r->chain.in_len};
    queue_push(&d->free, &r->link);
    d->running--;
    mark(q);
}

static void co_request(void *request)
{
    struct vdisk_request *r = request;
    struct vdisk *d = r->q->disk;
    struct virtio_blk_req h;
    struct iov out = vchain_out(&r->chain), in = vchain_in(&r->chain);
    iov_copy_out(&h, out, 0, sizeof(h));
    if (!origin_try_enter(d->origin))
        co_origin_enter(d->origin);
    uint8_t status = co_answer(d, &h, iov_slice(out, sizeof(h), out.len - sizeof(h)),
                               iov_slice(in, 0, in.len - 1));
    origin_leave(d->origin);
    finish(r, status);
}

static void breaks(struct vdisk_queue *q, const char *reason)
{
    q->ring.broken = true;
    report(q->disk, index_of(q), reason);
}

static bool may_start(const struct vdisk *d)
{
    return d->free.first &&
           (d->running < VDISK_OWN_STACKS || co_stacks_free() > co_stacks_total() / 4);
}

/* False: there is nothing (more), or nothing that may be looked at now. */
static bool start_next(struct vdisk_queue *q)
{
    struct vdisk *d = q->disk;
    if ((uint16_t)(q->popped - q->published) >= q->ring.size || !may_start(d))
        return false;
    struct vdisk_request *r = container_of(d->free.first, struct vdisk_request, link);
    int rc = vring_pop(&q->ring, &r->chain);
    if (unlikely(rc < 0))
        breaks(q, "a descriptor chain makes no sense");
    if (rc <= 0)
        return false;
    if (unlikely(r->chain.out_len < sizeof(struct virtio_blk_req) || !r->chain.in_len)) {
        breaks(q, "a request has no header or no status");
        return false;
    }
    queue_pop(&d->free);
    d->running++;
    r->q = q;
    r->index = q->popped++;
    slot(q, r->index)->done = false;
    co_start_now(&r->start, co_request, r);
    return true;
}

static bool work(struct vdisk_queue *q)
{
    bool some = false;
    while (q->state == VDISK_OPEN && !q->ring.broken && start_next(q))
        some = true;
    return some;
}

static struct vdisk *of_poller(struct poller *p)
{
    return container_of(p, struct vdisk, poller);
}

/* While the gate is closed requests stay in their rings: whoever opens it does so in a turn, and
 * after each turn the rings are looked at. */
static bool poll(struct poller *p)
{
    struct vdisk *d = of_poller(p);
    bool some = false;
    if (unlikely(d->origin->gate[loop_id()].closed))
        return false;
    for (unsigned i = 0; i < d->nqueues; i++)
        some |= work(&d->queue[i]);
    return some;
}

static void want(struct vdisk *d, bool notifications)
{
    for (unsigned i = 0; i < d->nqueues; i++)
        if (d->queue[i].state == VDISK_OPEN)
            vring_notify_me(&d->queue[i].ring, notifications);
}

static void arm(struct poller *p)
{
    want(of_poller(p), true);
}

static void disarm(struct poller *p)
{
    want(of_poller(p), false);
}

/* ---- The end of a turn ------------------------------------------------------------------------ */

static void publish(struct vdisk_queue *q)
{
    struct vdisk *d = q->disk;
    for (; q->published != q->popped && slot(q, q->published)->done; q->published++)
        if (!q->silent)
            vring_push(&q->ring, slot(q, q->published)->id, slot(q, q->published)->written);
    if (!q->silent && vring_interrupt(&q->ring))
        d->ops->interrupt(d, index_of(q));
    if (q->state == VDISK_CLOSING && q->published == q->popped) {
        q->state = VDISK_CLOSED;
        d->ops->idle(d, index_of(q));
    }
}

static void publish_all(struct turn_hook *h)
{
    (void)h;
    while (!list_empty(&dirty)) {
        struct vdisk_queue *q = list_first(&dirty, struct vdisk_queue, dirty);
        list_remove(&q->dirty);
        publish(q);
    }
}

/* ---- Queues ----------------------------------------------------------------------------------- */

int vdisk_start(struct vdisk *d, unsigned queue, const struct vmemory *m, unsigned size,
                uint64_t desc, uint64_t avail, uint64_t used, uint16_t base)
{
    struct vdisk_queue *q = &d->queue[queue];
    ASSERT(q->state == VDISK_CLOSED);
    int rc = size > VDISK_QUEUE_SIZE
                 ? SR_EINVAL
                 : vring_open(&q->ring, m, size, desc, avail, used, d->features);
    if (rc) {
        report(d, queue, "a size or an address of the ring makes no sense");
        return rc;
    }
    vring_resume(&q->ring, base);
    vring_notify_me(&q->ring, false);
    q->popped = q->published = base;
    q->silent = false;
    q->state = VDISK_OPEN;
    return 0;
}

void vdisk_stop(struct vdisk *d, unsigned queue, bool silent)
{
    struct vdisk_queue *q = &d->queue[queue];
    if (q->state == VDISK_CLOSED)
        return;
    q->state = VDISK_CLOSING;
    q->silent |= silent;
    mark(q);
}

uint16_t vdisk_base(const struct vdisk *d, unsigned queue)
{
    return d->queue[queue].published;
}

/* ---- Features and configuration --------------------------------------------------------------- */

uint64_t vdisk_features(const struct vdisk *d)
{
    uint64_t f = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_INDIRECT_DESC |
                 1ull << VIRTIO_F_EVENT_IDX | 1ull << VIRTIO_BLK_F_SIZE_MAX |
                 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
                 1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_FLUSH |
                 1ull << VIRTIO_BLK_F_CONFIG_WCE;
    if (d->nqueues > 1)
        f |= 1ull << VIRTIO_BLK_F_MQ;
    return f | (d->writable ? 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES
                            : 1ull << VIRTIO_BLK_F_RO);
}

void vdisk_set_features(struct vdisk *d, uint64_t features)
{
    d->features = features & vdisk_features(d);
    d->writeback = true;
}

static void topology(const struct vdisk *d, struct virtio_blk_config *c)
{
    const struct blk_limits *l = &d->origin->root->node->limits;
    if (l->request_alignment > d->block_size)
        c->physical_block_exp = (uint8_t)log2_floor(l->request_alignment / d->block_size);
    le16_set(&c->min_io_size, 1);
    le32_set(&c->opt_io_size, l->opt_transfer / d->block_size);
}

static void config(const struct vdisk *d, struct virtio_blk_config *c)
{
    const struct blk_limits *l = &d->origin->root->node->limits;
    uint32_t granularity = MAX(l->discard_alignment, d->block_size) / SECTOR;
    *c = (struct virtio_blk_config){.writeback = d->writeback, .write_zeroes_may_unmap = 1};
    le64_set(&c->capacity, align_down(d->origin->root->node->size, d->block_size) / SECTOR);
    le32_set(&c->size_max, VDISK_SIZE_MAX);
    le32_set(&c->seg_max, VDISK_SEG_MAX);
    le32_set(&c->blk_size, d->block_size);
    topology(d, c);
    le16_set(&c->num_queues, (uint16_t)d->nqueues);
    if (!d->writable)
        return;
    le32_set(&c->max_discard_sectors, VDISK_RANGE_SECTORS);
    le32_set(&c->max_discard_seg, VDISK_RANGES);
    le32_set(&c->discard_sector_alignment, granularity);
    le32_set(&c->max_write_zeroes_sectors, VDISK_RANGE_SECTORS);
    le32_set(&c->max_write_zeroes_seg, VDISK_RANGES);
}

void vdisk_config_read(const struct vdisk *d, size_t off, void *to, size_t len)
{
    struct virtio_blk_config c;
    config(d, &c);
    memset(to, 0, len);
    if (off < sizeof(c))
        memcpy(to, (const uint8_t *)&c + off, MIN(len, sizeof(c) - off));
}

/* The cache mode is all that a driver may write (5.2.5). */
int vdisk_config_write(struct vdisk *d, size_t off, const void *from, size_t len)
{
    const uint8_t *mode = from;
    if (off != offsetof(struct virtio_blk_config, writeback) || len != 1 || *mode > 1)
        return SR_EINVAL;
    d->writeback = *mode;
    return 0;
}

/* ---- Open and close --------------------------------------------------------------------------- */

static void set_free(struct vdisk *d)
{
    if (d->requests)
        page_free(d->requests, VDISK_REQUESTS * sizeof(*d->requests));
    for (unsigned i = 0; d->queue && i < d->nqueues; i++)
        if (d->queue[i].order)
            page_free(d->queue[i].order, VDISK_QUEUE_SIZE * sizeof(struct vdisk_slot));
    sr_free(d->queue);
}

static int allocate(struct vdisk *d)
{
    d->queue = sr_calloc(d->nqueues, sizeof(*d->queue));
    d->requests = page_alloc_zeroed(VDISK_REQUESTS * sizeof(*d->requests));
    if (!d->queue || !d->requests)
        return SR_ENOMEM;
    for (unsigned i = 0; i < d->nqueues; i++) {
        struct vdisk_queue *q = &d->queue[i];
        q->disk = d;
        list_init(&q->dirty);
        q->order = page_alloc_zeroed(VDISK_QUEUE_SIZE * sizeof(*q->order));
        if (!q->order)
            return SR_ENOMEM;
    }
    return 0;
}

int vdisk_open(struct vdisk *d)
{
    static struct turn_hook hook = {.run = publish_all};
    ASSERT_LOOP(0);
    if (allocate(d)) {
        set_free(d);
        return SR_ENOMEM;
    }
    queue_init(&d->free);
    for (unsigned i = 0; i < VDISK_REQUESTS; i++)
        queue_push(&d->free, &d->requests[i].link);
    if (!hook.link.next)
        turn_hook_add(&hook);
    vdisk_set_features(d, 0);
    d->poller = (struct poller){.poll = poll, .arm = arm, .disarm = disarm};
    poller_add(&d->poller);
    return 0;
}

void vdisk_close(struct vdisk *d)
{
    ASSERT(!d->running);
    poller_remove(&d->poller);
    set_free(d);
}
