/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-blk (virtio 1.2, 5.2): disks, and the node driver of the same name.
 *
 * A request is a coroutine's struct request on its stack, and a slot of the queue:
 *
 *     queue slot i:   table -> | header i | data pieces (the submitter's memory) | status i |
 *     wire[i]:        header, range (discard, write zeroes), status: what the device reads and writes
 *
 * The coroutine hands the request over and yields; the poller takes completions off the ring and
 * wakes it. When the ring is full the request waits in line; the poller puts it on the ring as soon
 * as there is room, so nobody is woken only to wait again, and nobody overtakes.
 *
 * One queue per loop, as far as the device has them; each is touched by its loop only. Limits go to
 * the node (pieces, piece size, alignment), so the core splits and this file only fills descriptors.
 *
 * A device that breaks is stopped first (virtio.c); then every request, on the ring or in line, fails
 * with SR_EIO, as does all that comes later. The disk stays listed.
 *
 * Missing on purpose: time-outs on the data path, FUA (the core flushes; the protocol has none),
 * switching the cache mode (CONFIG_WCE), zoned devices, secure erase.
 */
#include "blk/blk.h"
#include "virtio/blk_spec.h"
#include "virtio/virtio.h"
#include <stdio.h>

#define RING_SIZE      128u
#define RING_SIZE_MIN  32u
#define RING_SHARE     128u /* a ring takes at most this part of the free memory, above the minimum */
#define MAX_PIECES     126u /* of data; a table of 128 descriptors is 2 KiB */
#define PROBE_NS       (3ull * 1000000000)
#define STATUS_PENDING 0xffu

struct wire {
    struct virtio_blk_req header;
    struct virtio_blk_range range;
    uint8_t status, unused[31];
};
static_assert(sizeof(struct wire) == CACHE_LINE, "slots do not share lines");

struct request {
    struct qlink link; /* in line */
    struct co *co;
    struct iov v;
    uint64_t sector;
    uint32_t type, range_sectors, range_flags;
    int result;
    bool done;
};
struct lane { /* one queue, with what belongs to its loop */
    struct virtq *q;
    struct wire *wire;
    struct queue line;
};
struct blk {
    struct virtio_device *dev;
    struct disk disk;
    unsigned nlanes, pieces;
    struct limits { /* from the configuration */
        uint64_t sectors;
        uint32_t size_max, seg_max, blk_size, physical, optimal, num_queues;
        uint32_t discard_sectors, discard_align, zeroes_sectors;
        bool zeroes_unmap;
    } cfg;
    struct lane lane[MAX_LOOPS];
};

#define HAS(b, feature) virtio_has((b)->dev, VIRTIO_BLK_F_##feature)

/* ---- Requests -------------------------------------------------------------------------------- */

static void fill_header(struct wire *w, const struct request *r)
{
    le32_set(&w->header.type, r->type);
    le32_set(&w->header.reserved, 0);
    le64_set(&w->header.sector, r->sector);
    w->status = STATUS_PENDING;
}

static void add_range(struct virtq_chain *c, struct wire *w, const struct request *r)
{
    le64_set(&w->header.sector, 0);
    le64_set(&w->range.sector, r->sector);
    le32_set(&w->range.num_sectors, r->range_sectors);
    le32_set(&w->range.flags, r->range_flags);
    virtq_out(c, &w->range, sizeof(w->range));
}

/* False: no room now. */
static bool put(struct lane *l, struct request *r)
{
    struct virtq_chain c;
    unsigned pieces = l->q->indirect ? 1 : 2 + !!r->range_sectors + iov_count(r->v);
    if (!virtq_begin(l->q, &c, pieces))
        return false;
    struct wire *w = &l->wire[c.id];
    fill_header(w, r);
    virtq_out(&c, &w->header, sizeof(w->header));
    if (r->range_sectors)
        add_range(&c, w, r);
    struct iov walk = r->v;
    void *p;
    size_t n;
    bool out = r->type == VIRTIO_BLK_T_OUT;
    while (iov_next(&walk, &p, &n)) {
        if (out)
            virtq_out(&c, p, n);
        else
            virtq_in(&c, p, n);
    }
    virtq_in(&c, &w->status, 1);
    virtq_push(l->q, &c, r);
    return true;
}

static int co_request(struct blk *b, struct request *r)
{
    struct lane *l = &b->lane[b->nlanes > 1 ? loop_id() % b->nlanes : 0];
    if (unlikely(b->dev->broken))
        return SR_EIO;
    r->co = co_self();
    r->done = false;
    TRACE(vq_submit, r->type, r->sector);
    if (!queue_empty(&l->line) || !put(l, r))
        queue_push(&l->line, &r->link);
    while (!r->done)
        co_yield ();
    return r->result;
}

static void finish(struct request *r, int result)
{
    r->result = result;
    r->done = true;
    co_wake(r->co);
}

static int result_of(uint8_t status)
{
    if (likely(status == VIRTIO_BLK_S_OK))
        return 0;
    return status == VIRTIO_BLK_S_UNSUPP ? SR_ENOTSUP : SR_EIO;
}

static struct lane *lane_of(struct virtq *q)
{
    struct blk *b = q->dev->priv;
    return &b->lane[q->index];
}

/* At most one ring's worth per call: completions that arrive meanwhile are for the next turn. */
static bool poll(struct poller *p)
{
    struct virtq *q = virtq_of_poller(p);
    struct request *r;
    uint16_t id;
    uint32_t len;
    unsigned n = 0;
    while (n < q->size && (r = virtq_pop(q, &id, &len))) {
        struct lane *l = lane_of(q);
        TRACE(vq_done, r->type, l->wire[id].status);
        finish(r, result_of(l->wire[id].status));
        n++;
    }
    if (!n)
        return false;
    struct lane *l = lane_of(q);
    while (unlikely(l->line.first != NULL) && !q->dev->broken &&
           put(l, container_of(l->line.first, struct request, link)))
        queue_pop(&l->line);
    return true;
}

static void lost(struct virtio_device *d)
{
    struct blk *b = d->priv;
    for (unsigned i = 0; b && i < b->nlanes; i++) {
        struct lane *l = &b->lane[i];
        struct request *r;
        struct qlink *waiting;
        uint16_t id;
        co_hop(l->q->loop);
        while ((r = virtq_detach(l->q, &id)))
            finish(r, SR_EIO);
        while ((waiting = queue_pop(&l->line)))
            finish(container_of(waiting, struct request, link), SR_EIO);
        co_hop(0);
    }
}

/* ---- Configuration --------------------------------------------------------------------------- */

#define CFG(field) offsetof(struct virtio_blk_config, field)

static void load_capacity(struct virtio_device *d, void *out)
{
    *(uint64_t *)out = virtio_cfg64(d, CFG(capacity));
}

static void load_config(struct virtio_device *d, void *out)
{
    struct limits *c = out;
    *c = (struct limits){.blk_size = VIRTIO_BLK_SECTOR, .seg_max = 1, .num_queues = 1};
    load_capacity(d, &c->sectors);
    if (virtio_has(d, VIRTIO_BLK_F_SIZE_MAX))
        c->size_max = virtio_cfg32(d, CFG(size_max));
    if (virtio_has(d, VIRTIO_BLK_F_SEG_MAX))
        c->seg_max = virtio_cfg32(d, CFG(seg_max));
    if (virtio_has(d, VIRTIO_BLK_F_BLK_SIZE))
        c->blk_size = virtio_cfg32(d, CFG(blk_size));
    if (virtio_has(d, VIRTIO_BLK_F_TOPOLOGY)) {
        c->physical = virtio_cfg8(d, CFG(physical_block_exp));
        c->optimal = virtio_cfg32(d, CFG(opt_io_size));
    }
    if (virtio_has(d, VIRTIO_BLK_F_MQ))
        c->num_queues = virtio_cfg16(d, CFG(num_queues));
    if (virtio_has(d, VIRTIO_BLK_F_DISCARD)) {
        c->discard_sectors = virtio_cfg32(d, CFG(max_discard_sectors));
        c->discard_align = virtio_cfg32(d, CFG(discard_sector_alignment));
    }
    if (virtio_has(d, VIRTIO_BLK_F_WRITE_ZEROES)) {
        c->zeroes_sectors = virtio_cfg32(d, CFG(max_write_zeroes_sectors));
        c->zeroes_unmap = virtio_cfg8(d, CFG(write_zeroes_may_unmap));
    }
}

static int refuse(const struct blk *b, const char *what, uint64_t value)
{
    log_line("virtio-blk", "%s: %s of %llu makes no sense", b->dev->name, what,
             (unsigned long long)value);
    return SR_EINVAL;
}

/* What the device says about itself must be something a driver can work with. */
static int check_config(const struct blk *b)
{
    const struct limits *c = &b->cfg;
    if (c->sectors > (uint64_t)INT64_MAX / VIRTIO_BLK_SECTOR)
        return refuse(b, "capacity", c->sectors);
    if (!is_pow2(c->blk_size) || c->blk_size < VIRTIO_BLK_SECTOR || c->blk_size > 65536)
        return refuse(b, "block size", c->blk_size);
    if (!c->seg_max)
        return refuse(b, "segment limit", c->seg_max);
    if (HAS(b, SIZE_MAX) && c->size_max < c->blk_size)
        return refuse(b, "segment size", c->size_max);
    if (!c->num_queues)
        return refuse(b, "queue count", c->num_queues);
    return 0;
}

/* Bytes of one discard or write zeroes, whole blocks; 0 when not even one block fits. */
static uint64_t range_max(const struct limits *c, uint32_t sectors)
{
    return align_down((uint64_t)sectors * VIRTIO_BLK_SECTOR, c->blk_size);
}

static void config_changed(struct virtio_device *d)
{
    struct blk *b = d->priv;
    uint64_t sectors;
    if (virtio_cfg_load(d, load_capacity, &sectors) ||
        sectors > (uint64_t)INT64_MAX / VIRTIO_BLK_SECTOR || sectors == b->cfg.sectors)
        return;
    b->cfg.sectors = sectors;
    b->disk.size = sectors * VIRTIO_BLK_SECTOR;
    log_line("virtio-blk", "%s: size is now %llu", d->name, (unsigned long long)b->disk.size);
    if (b->disk.user)
        node_resized(b->disk.user, b->disk.size);
}

/* ---- Probe ----------------------------------------------------------------------------------- */

/* Most of a ring are its tables of descriptors. A hundred disks share the memory that there is. */
static unsigned ring_size(const struct blk *b)
{
    unsigned size = RING_SIZE;
    size_t table = (b->pieces + 2) * sizeof(struct vring_desc);
    while (size > RING_SIZE_MIN && size * table > page_free_bytes() / RING_SHARE)
        size /= 2;
    return size;
}

static int make_lane(struct blk *b, unsigned i)
{
    struct lane *l = &b->lane[i];
    int rc = virtio_queue(b->dev, i, ring_size(b), b->pieces + 2, i, &l->q);
    if (rc)
        return rc;
    queue_init(&l->line);
    l->wire = page_alloc_zeroed(l->q->size * sizeof(*l->wire));
    b->nlanes++;
    return l->wire ? 0 : SR_ENOMEM;
}

/* Without indirect tables a chain lies in the ring, and must fit it: chains of pieces + 2. */
static int make_lanes(struct blk *b)
{
    b->pieces = MIN(b->cfg.seg_max, MAX_PIECES);
    unsigned n = MIN(b->cfg.num_queues, loop_count());
    for (unsigned i = 0; i < n; i++) {
        int rc = make_lane(b, i);
        if (rc)
            return rc;
        const struct virtq *q = b->lane[i].q;
        if (!q->indirect && q->size < 3)
            return refuse(b, "ring size", q->size);
        if (!q->indirect)
            b->pieces = MIN(b->pieces, q->size - 2u);
    }
    return 0;
}

struct probe_timer {
    struct timer t;
    struct virtio_device *dev;
};

static void no_answer(struct timer *t)
{
    virtio_fail(container_of(t, struct probe_timer, t)->dev, "no answer to the first request");
}

/* The serial number: 20 bytes, ended by a zero unless all are used (5.2.6.1). The buffer is memory
 * that a device can reach, and the request has a deadline: nothing else notices a dead device. */
static int co_read_serial(struct blk *b)
{
    struct probe_timer deadline = {.dev = b->dev};
    struct seg seg;
    char *id = page_alloc_zeroed(VIRTIO_BLK_ID_BYTES);
    if (!id)
        return SR_ENOMEM;
    timer_init(&deadline.t, no_answer);
    timer_set(&deadline.t, board_clock_ns() + PROBE_NS);
    struct request r = {.type = VIRTIO_BLK_T_GET_ID, .v = iov_one(&seg, id, VIRTIO_BLK_ID_BYTES)};
    int rc = co_request(b, &r);
    timer_cancel(&deadline.t);
    if (!rc)
        memcpy(b->disk.serial, id, VIRTIO_BLK_ID_BYTES);
    page_free(id, VIRTIO_BLK_ID_BYTES);
    return b->dev->broken ? SR_EIO : 0; /* no serial number is no error */
}

static void announce(struct blk *b)
{
    struct disk *k = &b->disk;
    k->driver = "virtio-blk";
    memcpy(k->address, b->dev->name, sizeof(k->address));
    k->size = b->cfg.sectors * VIRTIO_BLK_SECTOR;
    k->block_size = b->cfg.blk_size;
    k->read_only = HAS(b, RO);
    k->priv = b;
    disk_announce(k);
}

static int co_start_device(struct blk *b)
{
    int rc = virtio_cfg_load(b->dev, load_config, &b->cfg);
    if (!rc)
        rc = check_config(b);
    if (!rc)
        rc = make_lanes(b);
    if (rc)
        return rc;
    virtio_ready(b->dev);
    for (unsigned i = 0; i < b->nlanes; i++)
        virtq_start(b->lane[i].q, poll);
    return co_read_serial(b);
}

static void forget(struct virtio_device *d)
{
    struct blk *b = d->priv;
    if (!b)
        return;
    if (b->disk.link.next)
        list_remove(&b->disk.link);
    for (unsigned i = 0; i < b->nlanes; i++)
        if (b->lane[i].wire)
            page_free(b->lane[i].wire, b->lane[i].q->size * sizeof(struct wire));
    sr_free(b);
}

static int co_probe(struct virtio_device *d)
{
    struct blk *b = sr_calloc(1, sizeof(*b));
    if (!b)
        return SR_ENOMEM;
    b->dev = d;
    d->priv = b;
    int rc = co_start_device(b);
    if (!rc)
        announce(b);
    return rc;
}

const struct virtio_driver virtio_blk_driver = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .features =
        1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_RO |
        1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_TOPOLOGY |
        1ull << VIRTIO_BLK_F_MQ | 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES,
    .co_probe = co_probe,
    .config_changed = config_changed,
    .lost = lost,
    .forget = forget,
};
REGISTER(virtio_driver, virtio_blk_driver);

/* ---- The node driver ------------------------------------------------------------------------- */

struct blk_state {
    struct blk *blk;
};

static struct blk *blk_of(struct node *n)
{
    return ((struct blk_state *)node_state(n))->blk;
}

static void set_limits(struct node *n, const struct blk *b)
{
    const struct limits *c = &b->cfg;
    struct blk_limits *l = &n->limits;
    l->request_alignment = c->blk_size;
    l->mem_align = 1;
    l->max_sg = b->pieces;
    if (c->size_max && c->size_max < BLK_MAX_PIECE)
        l->max_transfer = (uint32_t)align_down(c->size_max, c->blk_size);
    if (c->optimal <= BLK_MAX_PIECE / c->blk_size)
        l->opt_transfer = c->optimal * c->blk_size;
    uint64_t align = (uint64_t)c->discard_align * VIRTIO_BLK_SECTOR;
    if (is_pow2(align) && align >= c->blk_size && align <= BLK_MAX_PIECE)
        l->discard_alignment = (uint32_t)align;
    l->max_discard = range_max(c, c->discard_sectors);
    l->max_write_zeroes = range_max(c, c->zeroes_sectors);
}

static int co_open(struct node *n, const void *opts, struct error *err)
{
    struct disk *d;
    int rc = disk_claim("virtio-blk", opts, n, &d, err);
    if (rc)
        return rc;
    struct blk *b = d->priv;
    ((struct blk_state *)node_state(n))->blk = b;
    n->size = d->size;
    n->zero_flags = b->cfg.zeroes_unmap ? BLK_MAY_UNMAP : 0;
    set_limits(n, b);
    snprintf(n->filename, sizeof(n->filename), "%s", d->address);
    n->read_only |= d->read_only;
    return 0;
}

static void co_close(struct node *n)
{
    disk_release(&blk_of(n)->disk);
}

static int co_transfer(struct node *n, uint64_t off, struct iov v, uint32_t type)
{
    struct request r = {.type = type, .sector = off / VIRTIO_BLK_SECTOR, .v = v};
    return co_request(blk_of(n), &r);
}

static int co_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)flags;
    return co_transfer(n, off, v, VIRTIO_BLK_T_IN);
}

static int co_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)flags;
    return co_transfer(n, off, v, VIRTIO_BLK_T_OUT);
}

/* Without the feature the cache, if there is one, is write-through (5.2.5.2). */
static int co_flush(struct node *n)
{
    struct blk *b = blk_of(n);
    if (!HAS(b, FLUSH))
        return b->dev->broken ? SR_EIO : 0;
    struct request r = {.type = VIRTIO_BLK_T_FLUSH};
    return co_request(b, &r);
}

static int co_range(struct node *n, uint64_t off, uint64_t len, uint32_t type, uint32_t flags)
{
    struct request r = {.type = type,
                        .sector = off / VIRTIO_BLK_SECTOR,
                        .range_sectors = (uint32_t)(len / VIRTIO_BLK_SECTOR),
                        .range_flags = flags};
    return co_request(blk_of(n), &r);
}

static int co_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct blk *b = blk_of(n);
    if (!HAS(b, WRITE_ZEROES) || !range_max(&b->cfg, b->cfg.zeroes_sectors))
        return SR_ENOTSUP;
    return co_range(n, off, len, VIRTIO_BLK_T_WRITE_ZEROES,
                    flags & BLK_MAY_UNMAP ? VIRTIO_BLK_RANGE_UNMAP : 0);
}

static int co_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    struct blk *b = blk_of(n);
    if (!HAS(b, DISCARD) || !range_max(&b->cfg, b->cfg.discard_sectors))
        return SR_ENOTSUP;
    return co_range(n, off, len, VIRTIO_BLK_T_DISCARD, 0);
}

static const struct type options = {.kind = TYPE_STRUCT,
                                    .name = "BlockdevOptionsVirtioBlk",
                                    .size = sizeof(struct disk_options),
                                    .fields = disk_fields};

const struct blk_driver blk_virtio_blk = {
    .name = "virtio-blk",
    .options = &options,
    .state_size = sizeof(struct blk_state),
    .protocol = true,
    .co_open = co_open,
    .co_close = co_close,
    .co_preadv = co_preadv,
    .co_pwritev = co_pwritev,
    .co_pwrite_zeroes = co_pwrite_zeroes,
    .co_pdiscard = co_pdiscard,
    .co_flush = co_flush,
};
REGISTER(blk_driver, blk_virtio_blk);
