/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands: slots, command tables, completions.
 *
 *     request -> line -> slot i:  list[i] -> table[i] = { FIS | packet | PRDs -> submitter's memory }
 *                                                  CI, SACT bit i
 *
 * A request is a coroutine's struct ahci_request on its stack. It takes a free slot, or waits in
 * line; nobody overtakes. All slots filled in a turn are told to the controller at its end: one
 * write of SACT (queued commands, before CI; 5.6.4.1) and one of CI. After an error nothing is told
 * to it any more until recovery has stopped and started the port: a controller (QEMU's) may go on
 * nevertheless, leave CI bits of what it has begun, and do all of those again at the next write.
 *
 * Two kinds of commands must not be in flight together (Serial ATA, 13.6): queued ones (READ and
 * WRITE FPDMA), up to the device's depth, and others, of which this driver issues one at a time. So
 * a flush waits for what was issued before it, and what comes later waits for the flush. And so an
 * error of a command that is not queued is always the error of the only one in flight.
 *
 * Completions. A queued command is done when its SACT bit is 0, another when its CI bit is; only bits
 * that were issued count, so a controller cannot complete what it was not given. Where an error
 * stops the port, bits of commands that failed stay (6.2.2); should a controller clear CI
 * nevertheless, the task file is looked at before a command that is not queued is called done. Bytes
 * received are compared with those asked for (PRDBC), except for queued commands, where no counter is
 * kept (5.4.1).
 *
 * Interrupts are never masked: before sleep, status is cleared and the registers are read once more.
 * While completions keep coming, a poll reads one register, and so does what issues.
 *
 * Deadlines. A port with commands in flight has a timer that ticks four times per deadline; a slot
 * remembers the tick it was filled at. Nothing is set or cancelled per command.
 */
#include "ahci/port.h"

#include <string.h>

#define COMMAND_NS  (15ull * 1000000000)
#define INTERNAL_NS (5ull * 1000000000)
#define TICKS       4u
#define WAIT_NS     20000u /* the first step of waiting for a command of the driver's own */
#define WAIT_MAX_NS 1000000u

/* ---- Telling the controller ------------------------------------------------------------------ */

static struct kicks {
    struct turn_hook hook;
    struct list ports;
} kicks;

/* What the port's interrupt status says. True: recovery has begun. */
static bool look_for_errors(struct ahci_port *p)
{
    uint32_t status = port_read(p, PX_IS);
    unsigned why = status & PIS_TFES ? WHY_TASKFILE : 0;
    if (status & PIS_FATAL)
        why |= WHY_FATAL;
    if (status & PIS_PLUG)
        why |= WHY_PLUG;
    if (why)
        ahci_recover(p, why);
    return why;
}

static void kick(struct ahci_port *p)
{
    uint32_t bits = p->pending;
    p->kick_pending = false;
    if (!bits || unlikely(look_for_errors(p)))
        return;
    p->pending = 0;
    p->issued |= bits;
    dma_wmb();
    if (p->queued)
        port_write(p, PX_SACT, bits);
    port_write(p, PX_CI, bits);
}

static void kick_all(struct turn_hook *h)
{
    struct kicks *k = container_of(h, struct kicks, hook);
    while (!list_empty(&k->ports)) {
        struct ahci_port *p = list_first(&k->ports, struct ahci_port, kick_link);
        list_remove(&p->kick_link);
        kick(p);
    }
}

static void kick_later(struct ahci_port *p)
{
    p->kick_pending = true;
    list_append(&kicks.ports, &p->kick_link);
}

/* ---- Filling a slot -------------------------------------------------------------------------- */

static bool is_queued(const struct ahci_port *p, const struct ahci_request *r)
{
    return p->id.ncq && r->kind <= AHCI_WRITE && !r->alone;
}

static void set_lba(struct fis_h2d *f, uint64_t lba)
{
    f->lba0 = (uint8_t)lba;
    f->lba1 = (uint8_t)(lba >> 8);
    f->lba2 = (uint8_t)(lba >> 16);
    f->lba3 = (uint8_t)(lba >> 24);
    f->lba4 = (uint8_t)(lba >> 32);
    f->lba5 = (uint8_t)(lba >> 40);
}

static void fill_queued(struct fis_h2d *f, const struct ahci_request *r, unsigned slot)
{
    bool write = r->kind == AHCI_WRITE;
    *f = (struct fis_h2d){.type = FIS_H2D,
                          .flags = FIS_IS_COMMAND,
                          .command = write ? ATA_WRITE_FPDMA : ATA_READ_FPDMA,
                          .feature = (uint8_t)r->count,
                          .feature_high = (uint8_t)(r->count >> 8),
                          .count = (uint8_t)(slot << 3),
                          .device = r->fua ? DEVICE_LBA | DEVICE_FUA : DEVICE_LBA};
    set_lba(f, r->lba);
}

static uint8_t transfer_command(const struct ahci_port *p, const struct ahci_request *r)
{
    if (!p->id.lba48)
        return r->kind == AHCI_WRITE ? ATA_WRITE_DMA : ATA_READ_DMA;
    if (r->kind == AHCI_READ)
        return ATA_READ_DMA_EXT;
    return r->fua ? ATA_WRITE_DMA_FUA_EXT : ATA_WRITE_DMA_EXT;
}

/* Ranges in scratch: nobody else uses it while this command is in flight. Returns 512-byte blocks. */
static unsigned fill_trim(struct ahci_port *p, const struct ahci_request *r)
{
    le64 *range = (le64 *)(void *)p->mem->scratch;
    uint64_t lba = r->lba, left = r->count;
    unsigned n = 0;
    memset(range, 0, sizeof(p->mem->scratch));
    for (; left; n++) {
        uint64_t some = MIN(left, ATA_TRIM_MAX);
        le64_set(&range[n], lba | some << 48);
        lba += some;
        left -= some;
    }
    return (n + ATA_TRIM_ENTRIES - 1) / ATA_TRIM_ENTRIES;
}

/* long: one case per kind of command */
static void fill_fis(struct ahci_port *p, struct fis_h2d *f, const struct ahci_request *r)
{
    *f = (struct fis_h2d){.type = FIS_H2D, .flags = FIS_IS_COMMAND};
    switch (r->kind) {
    case AHCI_READ:
    case AHCI_WRITE:
        f->command = transfer_command(p, r);
        f->device = DEVICE_LBA;
        f->count = (uint8_t)r->count;
        set_lba(f, r->lba);
        if (p->id.lba48) {
            f->count_high = (uint8_t)(r->count >> 8);
        } else {
            f->device |= f->lba3 & 15;
            f->lba3 = 0;
        }
        break;
    case AHCI_FLUSH:
        f->command = p->id.flush_ext ? ATA_FLUSH_EXT : ATA_FLUSH;
        break;
    case AHCI_TRIM:
        f->command = ATA_DSM;
        f->feature = ATA_DSM_TRIM;
        f->device = DEVICE_LBA;
        f->count = (uint8_t)fill_trim(p, r);
        break;
    case AHCI_PACKET:
        f->command = ATA_PACKET;
        f->feature = PACKET_DMA | (p->id.dmadir ? PACKET_DMADIR : 0);
        f->lba1 = 0xfe; /* byte count limit, for devices that do not use DMA */
        f->lba2 = 0xff;
        break;
    }
}

static void set_prd(struct ahci_prd *d, const void *at, size_t len)
{
    le64_set(&d->base, dma_map(at, len));
    le32_set(&d->count, (uint32_t)len - 1);
}

static bool below_4g(struct iov v)
{
    void *at;
    size_t len;
    while (iov_next(&v, &at, &len))
        if ((dma_map(at, len) + len - 1) >> 32)
            return false;
    return true;
}

/* Through memory that a 32-bit controller reaches; the limits say that it is long enough. */
static unsigned bounce(struct ahci_port *p, const struct ahci_request *r, unsigned slot)
{
    uint8_t *b = p->bounce + (size_t)slot * AHCI_BOUNCE;
    ASSERT(r->v.len <= AHCI_BOUNCE);
    if (r->kind == AHCI_WRITE)
        iov_copy_out(b, r->v, 0, r->v.len);
    set_prd(&p->mem->table[slot].prd[0], b, r->v.len);
    return 1;
}

static unsigned fill_prds(struct ahci_port *p, const struct ahci_request *r, unsigned slot)
{
    struct ahci_prd *d = p->mem->table[slot].prd;
    if (r->kind == AHCI_TRIM) {
        set_prd(d, p->mem->scratch, p->mem->table[slot].fis.count * 512u);
        return 1;
    }
    if (unlikely(p->bounce != NULL) && r->v.len && !below_4g(r->v))
        return bounce(p, r, slot);
    struct iov walk = r->v;
    void *at;
    size_t len;
    unsigned n = 0;
    while (iov_next(&walk, &at, &len)) {
        ASSERT(n < AHCI_PRDS);
        set_prd(&d[n++], at, len);
    }
    return n;
}

static void fill(struct ahci_port *p, struct ahci_request *r, unsigned slot, bool queued)
{
    struct ahci_table *t = &p->mem->table[slot];
    struct ahci_header *h = &p->mem->list[slot];
    unsigned flags = HEADER_FIS_WORDS;
    if (likely(queued))
        fill_queued(&t->fis, r, slot);
    else
        fill_fis(p, &t->fis, r);
    if (r->kind == AHCI_WRITE || r->kind == AHCI_TRIM)
        flags |= HEADER_WRITE;
    if (unlikely(r->kind == AHCI_PACKET)) {
        flags |= HEADER_ATAPI;
        memcpy(t->packet, r->packet, sizeof(t->packet));
    }
    le16_set(&h->prdtl, (uint16_t)fill_prds(p, r, slot));
    le16_set(&h->flags, (uint16_t)flags);
    le32_set(&h->prdbc, 0);
}

/* ---- Starting and ending --------------------------------------------------------------------- */

static bool may_issue(const struct ahci_port *p, const struct ahci_request *r)
{
    if (unlikely(p->state != PORT_ONLINE))
        return false;
    if (!p->busy)
        return true;
    return p->queued && is_queued(p, r) && (p->usable & ~p->busy);
}

static uint64_t tick_ns(const struct ahci_port *p)
{
    return hba_bound(p->hba, COMMAND_NS / TICKS);
}

static void issue(struct ahci_port *p, struct ahci_request *r)
{
    bool queued = is_queued(p, r);
    unsigned slot = (unsigned)__builtin_ctz(p->usable & ~p->busy);
    fill(p, r, slot, queued);
    p->slot[slot] = r;
    p->queued = queued;
    p->busy |= 1u << slot;
    p->pending |= 1u << slot;
    r->tick = p->tick;
    p->hba->active |= 1u << p->index;
    if (!p->kick_pending)
        kick_later(p);
    if (unlikely(!p->watchdog.pending))
        timer_set(&p->watchdog, board_clock_ns() + tick_ns(p));
}

void ahci_pump(struct ahci_port *p)
{
    while (p->line.first) {
        struct ahci_request *r = container_of(p->line.first, struct ahci_request, link);
        if (p->state == PORT_EMPTY) {
            queue_pop(&p->line);
            ahci_finish(p, r, SR_EIO);
            continue;
        }
        if (!may_issue(p, r))
            return;
        queue_pop(&p->line);
        issue(p, r);
    }
}

int co_ahci_request(struct ahci_port *p, struct ahci_request *r)
{
    r->co = co_self();
    r->done = false;
    r->attempts = r->ata_error = 0;
    TRACE(vq_submit, r->kind, r->lba);
    if (unlikely(p->state == PORT_EMPTY)) {
        r->result = SR_EIO;
        r->done = true;
    } else if (queue_empty(&p->line) && may_issue(p, r)) {
        issue(p, r);
    } else {
        queue_push(&p->line, &r->link);
    }
    while (!r->done)
        co_yield ();
    return r->result;
}

void ahci_finish(struct ahci_port *p, struct ahci_request *r, int result)
{
    (void)p;
    TRACE(vq_done, r->kind, result);
    r->result = result;
    r->done = true;
    co_wake(r->co);
}

/* The bytes of a command that is not queued have all come? A packet's may be fewer. */
static int check_received(struct ahci_port *p, struct ahci_request *r, unsigned slot)
{
    uint32_t n = le32_get(p->mem->list[slot].prdbc);
    r->received = (uint32_t)MIN(n, r->v.len);
    return r->kind == AHCI_READ && n != r->v.len ? SR_EIO : 0;
}

static void complete(struct ahci_port *p, unsigned slot)
{
    struct ahci_request *r = p->slot[slot];
    int rc = likely(p->queued) ? 0 : check_received(p, r, slot);
    if (unlikely(p->bounce != NULL) && r->kind != AHCI_WRITE && r->v.len && !below_4g(r->v))
        iov_copy_in(r->v, 0, p->bounce + (size_t)slot * AHCI_BOUNCE, r->v.len);
    p->slot[slot] = NULL;
    ahci_finish(p, r, rc);
}

bool ahci_complete(struct ahci_port *p)
{
    uint32_t done = p->issued & ~port_read(p, p->queued ? PX_SACT : PX_CI);
    if (!done)
        return false;
    if (unlikely(!p->queued) && port_read(p, PX_TFD) & (TFD_ERR | TFD_DF)) {
        ahci_recover(p, WHY_TASKFILE);
        return true;
    }
    dma_rmb();
    p->issued &= ~done;
    p->busy &= ~done;
    for (; done; done &= done - 1)
        complete(p, (unsigned)__builtin_ctz(done));
    if (!p->busy)
        p->hba->active &= ~(1u << p->index);
    return true;
}

bool ahci_poll_port(struct ahci_port *p)
{
    if (p->state != PORT_ONLINE || !p->issued)
        return false;
    if (!ahci_complete(p))
        return look_for_errors(p);
    if (unlikely(p->line.first != NULL))
        ahci_pump(p);
    return true;
}

/* Errors stay for look_for_errors; the rest is cleared, port first (5.5.3). */
void ahci_arm_port(struct ahci_port *p)
{
    uint32_t status = port_read(p, PX_IS) & ~(PIS_FATAL | PIS_TFES | PIS_PLUG);
    if (p->state != PORT_ONLINE || !status)
        return;
    port_write(p, PX_IS, status);
    hba_write(p->hba, AHCI_IS, 1u << p->index);
}

struct qlink *ahci_take_all(struct ahci_port *p)
{
    struct queue all;
    queue_init(&all);
    for (unsigned i = 0; i < AHCI_MAX_SLOTS; i++)
        if (p->slot[i]) {
            queue_push(&all, &p->slot[i]->link);
            p->slot[i] = NULL;
        }
    p->busy = p->pending = p->issued = 0;
    p->hba->active &= ~(1u << p->index);
    return all.first;
}

static void tick(struct timer *t)
{
    struct ahci_port *p = container_of(t, struct ahci_port, watchdog);
    if (!p->busy)
        return;
    p->tick++;
    for (unsigned i = 0; i < AHCI_MAX_SLOTS; i++)
        if (p->slot[i] && (uint8_t)(p->tick - p->slot[i]->tick) > TICKS) {
            ahci_recover(p, WHY_TIMEOUT);
            return;
        }
    timer_set(t, board_clock_ns() + tick_ns(p));
}

void ahci_port_init_commands(struct ahci_port *p)
{
    if (!kicks.hook.run) {
        list_init(&kicks.ports);
        kicks.hook.run = kick_all;
        turn_hook_add(&kicks.hook);
    }
    list_init(&p->kick_link);
    queue_init(&p->line);
    timer_init(&p->watchdog, tick);
}

/* ---- Commands of the driver's own ------------------------------------------------------------ */

/* 1: done; 0: not yet. */
static int internal_state(struct ahci_port *p)
{
    uint32_t ci = port_read(p, PX_CI), status = port_read(p, PX_IS), tfd = port_read(p, PX_TFD);
    if (status & (PIS_TFES | PIS_FATAL))
        return SR_EIO;
    if (p->hba->broken || !ahci_link_up(p))
        return SR_ENODEV;
    if (ci & 1 || tfd & (TFD_BSY | TFD_DRQ))
        return 0;
    return tfd & (TFD_ERR | TFD_DF) ? SR_EIO : 1;
}

static void fill_internal(struct ahci_port *p, const struct fis_h2d *fis, size_t bytes)
{
    struct ahci_header *h = &p->mem->list[0];
    p->mem->table[0].fis = *fis;
    p->mem->table[0].fis.type = FIS_H2D;
    p->mem->table[0].fis.flags = FIS_IS_COMMAND;
    memset(p->mem->scratch, 0, bytes);
    set_prd(&p->mem->table[0].prd[0], p->mem->scratch, bytes);
    le16_set(&h->flags, HEADER_FIS_WORDS);
    le16_set(&h->prdtl, 1);
    le32_set(&h->prdbc, 0);
}

/* Waits by looking, not by interrupt: a controller that interrupts wrongly is found here, too. */
int co_ahci_internal(struct ahci_port *p, const struct fis_h2d *fis, size_t bytes)
{
    uint64_t deadline = board_clock_ns() + hba_bound(p->hba, INTERNAL_NS), step = WAIT_NS;
    int rc;
    if (p->hba->broken)
        return SR_EIO;
    fill_internal(p, fis, bytes);
    port_write(p, PX_IS, ~PIS_PLUG);
    dma_wmb();
    port_write(p, PX_CI, 1);
    while (!(rc = internal_state(p))) {
        if (board_clock_ns() >= deadline)
            return SR_ETIMEDOUT;
        co_sleep_ns(step);
        step = MIN(2 * step, WAIT_MAX_NS);
    }
    dma_rmb();
    return rc > 0 ? 0 : rc;
}
