/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The node driver `ahci`: a disk or a CD-ROM on a port.
 *
 * What the device can do becomes the node's limits, so the core splits and bounces: blocks of its
 * logical size, even addresses and lengths (PRDs), as many pieces as a command table holds. FUA is
 * the device's where it has it (a word of its own says so, for queued writes too), else the core
 * flushes. TRIM is a hint that a disk may ignore: good for discards, never for zeroes.
 *
 * A drive without a medium is looked at every WATCH_NS while a node uses it.
 */
#include "ahci/port.h"

#include <stdio.h>

#define WATCH_NS    (2ull * 1000000000)
#define LBA28_COUNT 256u
#define TRIM_BLOCKS 8u /* as many as scratch holds */
static_assert(TRIM_BLOCKS * 512 == sizeof(((struct ahci_memory *)0)->scratch), "trim ranges");

struct ahci_state {
    struct ahci_port *port;
    struct node *node;
    struct timer timer;
    struct co_start start;
    bool watching, trim;
};

static struct ahci_port *port_of(struct node *n)
{
    return ((struct ahci_state *)node_state(n))->port;
}

static void set_limits(struct node *n, const struct ahci_port *p)
{
    const struct ahci_ident *id = &p->id;
    struct blk_limits *l = &n->limits;
    l->request_alignment = id->block_size;
    l->mem_align = 2;
    l->max_sg = AHCI_PRDS;
    if (!id->lba48 && !id->packet)
        l->max_transfer = MIN(LBA28_COUNT * id->block_size, BLK_MAX_PIECE);
    if (p->bounce)
        l->max_transfer = AHCI_BOUNCE;
    uint64_t entries = MIN(id->trim_blocks, TRIM_BLOCKS) * (uint64_t)ATA_TRIM_ENTRIES;
    l->max_discard = entries * ATA_TRIM_MAX * id->block_size;
    n->write_flags = id->fua ? BLK_FUA : 0;
}

/* ---- The drive's door ------------------------------------------------------------------------ */

static void watch_later(struct ahci_state *s)
{
    timer_set(&s->timer, board_clock_ns() + hba_bound(s->port->hba, WATCH_NS));
}

static void co_watch(void *arg)
{
    struct ahci_state *s = arg;
    bool ready;
    co_ahci_cd_medium(s->port, &ready);
    if (s->node->size != s->port->disk.size)
        node_resized(s->node, s->port->disk.size);
    s->watching = false;
    watch_later(s);
}

static void watch_due(struct timer *t)
{
    struct ahci_state *s = container_of(t, struct ahci_state, timer);
    s->watching = true;
    co_start(&s->start, co_watch, s);
}

/* ---- Open and close -------------------------------------------------------------------------- */

static int co_open(struct node *n, const void *opts, struct error *err)
{
    struct ahci_state *s = node_state(n);
    struct disk *d;
    bool ready;
    int rc = disk_claim("ahci", opts, n, &d, err);
    if (rc)
        return rc;
    struct ahci_port *p = d->priv;
    s->port = p;
    s->node = n;
    co_ahci_settle(p);
    if (p->state != PORT_ONLINE) {
        disk_release(d);
        return error_set(err, SR_ENODEV, "The device of disk %u is gone", d->index);
    }
    timer_init(&s->timer, watch_due);
    if (p->id.packet) {
        co_ahci_cd_medium(p, &ready);
        watch_later(s);
    }
    n->size = d->size;
    s->trim = p->id.trim;
    set_limits(n, p);
    snprintf(n->filename, sizeof(n->filename), "%s port %u", d->address, p->index);
    n->read_only |= d->read_only;
    return 0;
}

static void co_close(struct node *n)
{
    struct ahci_state *s = node_state(n);
    while (s->watching)
        co_sleep_ns(1000000);
    timer_cancel(&s->timer);
    co_ahci_settle(s->port);
    disk_release(&s->port->disk);
    if (s->port->state == PORT_EMPTY)
        ahci_port_withdraw(s->port);
}

/* ---- Requests -------------------------------------------------------------------------------- */

static int co_on_port(struct ahci_port *p, struct ahci_request *r, uint64_t off, uint64_t len)
{
    const struct ahci_ident *id = &p->id;
    if (unlikely(id->packet))
        return r->kind == AHCI_READ ? co_ahci_cd_read(p, off, r->v) : 0;
    if (unlikely(r->kind == AHCI_FLUSH && !(id->flush || id->flush_ext)))
        return 0;
    unsigned shift = (unsigned)__builtin_ctz(id->block_size);
    r->lba = off >> shift;
    r->count = len >> shift;
    return co_ahci_request(p, r);
}

/* The port is loop 0's. */
static int co_do(struct node *n, struct ahci_request *r, uint64_t off, uint64_t len)
{
    unsigned from = loop_id();
    if (likely(from == 0))
        return co_on_port(port_of(n), r, off, len);
    co_hop(0);
    int rc = co_on_port(port_of(n), r, off, len);
    co_hop(from);
    return rc;
}

static int co_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct ahci_request r = {.kind = AHCI_READ, .v = v};
    (void)flags;
    return co_do(n, &r, off, v.len);
}

static int co_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct ahci_request r = {.kind = AHCI_WRITE, .v = v, .fua = flags & BLK_FUA};
    return co_do(n, &r, off, v.len);
}

static int co_flush(struct node *n)
{
    struct ahci_request r = {.kind = AHCI_FLUSH};
    return co_do(n, &r, 0, 0);
}

static int co_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    struct ahci_state *s = node_state(n);
    struct ahci_request r = {.kind = AHCI_TRIM};
    return s->trim ? co_do(n, &r, off, len) : SR_ENOTSUP;
}

static const struct field fields[] = {
    FIELD_OPTS(struct disk_options, serial, "serial", &type_str, "Serial number of the disk"),
    FIELD_OPTS(struct disk_options, pci, "pci", &type_str, "PCI address, BB:DD.F"),
    FIELD_OPT(struct disk_options, index, "index", &type_int, "Number in order of discovery"),
    FIELD_OPT(struct disk_options, port, "port", &type_int, "Port of the controller"),
    {0},
};
static const struct type options = {.kind = TYPE_STRUCT,
                                    .name = "BlockdevOptionsAhci",
                                    .size = sizeof(struct disk_options),
                                    .fields = fields};

const struct blk_driver blk_ahci = {
    .name = "ahci",
    .options = &options,
    .state_size = sizeof(struct ahci_state),
    .protocol = true,
    .co_open = co_open,
    .co_close = co_close,
    .co_preadv = co_preadv,
    .co_pwritev = co_pwritev,
    .co_pdiscard = co_pdiscard,
    .co_flush = co_flush,
};
REGISTER(blk_driver, blk_ahci);
