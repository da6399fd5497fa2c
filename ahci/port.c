/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A port: its engine, its link, and how a device on it is brought up.
 *
 * Bring-up (10.1.2, 10.4): stop the engines; give list and received-FIS memory; power and spin up;
 * if the link is there, take the device's signature (a COMRESET when none has come), start, IDENTIFY.
 * A port whose link was never down when this driver began and has no device is empty at once: no
 * machine is kept waiting for sockets that nobody uses. A device that comes later is a hot-plug event.
 *
 * Every wait has a bound (PROBE_NS for a device to get ready); waits sleep, so ports come up side by
 * side. A port that is left out says why, once.
 *
 * Memory is given back only after CMD.CR and CMD.FR were seen 0.
 */
#include "ahci/port.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MS         1000000ull
#define ENGINE_NS  (500 * MS) /* 10.1.2 */
#define LINK_NS    (100 * MS) /* after COMRESET; Serial ATA: 10 ms, and slow ones */
#define SPIN_UP_NS (10 * MS)
#define PROBE_NS   (5000 * MS)
#define STEP_NS    (MS / 5)
#define INIT_NS    (MS + MS / 10) /* 10.4.2: DET = 1 for at least 1 ms */

void ahci_port_say(struct ahci_port *p, const char *fmt, ...)
{
    char text[112];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    log_rated(&p->said, "ahci", "%s port %u: %s", p->hba->name, p->index, text);
}

/* ---- Waiting --------------------------------------------------------------------------------- */

/* Until (reg & mask) == value. */
static bool co_wait(struct ahci_port *p, unsigned reg, uint32_t mask, uint32_t value, uint64_t ns)
{
    uint64_t deadline = board_clock_ns() + hba_bound(p->hba, ns);
    while ((port_read(p, reg) & mask) != value) {
        if (board_clock_ns() >= deadline)
            return false;
        co_sleep_ns(hba_bound(p->hba, STEP_NS));
    }
    return true;
}

bool co_ahci_link_comes(struct ahci_port *p)
{
    return co_wait(p, PX_SSTS, 15, DET_UP, LINK_NS) && ahci_link_up(p);
}

bool ahci_link_up(struct ahci_port *p)
{
    uint32_t s = port_read(p, PX_SSTS);
    return SSTS_DET(s) == DET_UP && s != UINT32_MAX;
}

/* ---- Engines --------------------------------------------------------------------------------- */

int co_ahci_port_stop(struct ahci_port *p)
{
    uint32_t cmd = port_read(p, PX_CMD);
    if (cmd & CMD_ST)
        port_write(p, PX_CMD, cmd & ~CMD_ST);
    return co_wait(p, PX_CMD, CMD_CR, 0, ENGINE_NS) ? 0 : SR_EIO;
}

/* The received-FIS engine after the other (10.3.2). */
static int co_stop_both(struct ahci_port *p)
{
    if (co_ahci_port_stop(p))
        return SR_EIO;
    uint32_t cmd = port_read(p, PX_CMD);
    if (cmd & CMD_FRE)
        port_write(p, PX_CMD, cmd & ~CMD_FRE);
    return co_wait(p, PX_CMD, CMD_FR, 0, ENGINE_NS) ? 0 : SR_EIO;
}

/* Only with BSY and DRQ clear (10.3.1). Clears what has been reported. Never after the controller was
 * reset: it knows of no memory then. */
static void start(struct ahci_port *p, bool packet)
{
    if (p->hba->broken)
        return;
    port_write(p, PX_SERR, SERR_ALL);
    port_write(p, PX_IS, UINT32_MAX);
    hba_write(p->hba, AHCI_IS, 1u << p->index);
    uint32_t cmd = port_read(p, PX_CMD) & ~CMD_ATAPI;
    port_write(p, PX_CMD, cmd | CMD_ST | (packet ? CMD_ATAPI : 0));
    port_write(p, PX_IE, PIS_WANTED);
}

void ahci_port_start(struct ahci_port *p)
{
    start(p, p->id.packet);
}

int co_ahci_port_reset(struct ahci_port *p)
{
    if (co_ahci_port_stop(p))
        return SR_EIO;
    uint32_t sctl = port_read(p, PX_SCTL) & ~15u;
    port_write(p, PX_SCTL, sctl | SCTL_DET_INIT);
    co_sleep_ns(hba_bound(p->hba, INIT_NS));
    port_write(p, PX_SCTL, sctl);
    if (!co_wait(p, PX_SSTS, 15, DET_UP, LINK_NS))
        return SR_ENODEV;
    port_write(p, PX_SERR, SERR_ALL);
    return co_wait(p, PX_TFD, TFD_BSY | TFD_DRQ, 0, PROBE_NS) ? 0 : SR_ETIMEDOUT;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static void *alloc(struct ahci_hba *h, size_t bytes)
{
    if (!h->dma64 && h->bus->alloc_low)
        return h->bus->alloc_low(bytes);
    void *m = page_alloc(bytes);
    if (m && !h->dma64 && (dma_map(m, bytes) + bytes - 1) >> 32) {
        page_free(m, bytes);
        return NULL;
    }
    return m;
}

static void give_back(struct ahci_hba *h, void *m, size_t bytes)
{
    if (m && !h->dma64 && h->bus->free_low)
        h->bus->free_low(m, bytes);
    else if (m)
        page_free(m, bytes);
}

static unsigned slots(const struct ahci_hba *h)
{
    return h->dma64 ? h->slots : MIN(h->slots, AHCI_BOUNCE_SLOTS);
}

static int make_memory(struct ahci_port *p)
{
    struct ahci_hba *h = p->hba;
    unsigned n = slots(h);
    p->mem_bytes = sizeof(*p->mem) + n * sizeof(struct ahci_table);
    p->mem = alloc(h, p->mem_bytes);
    if (!h->dma64)
        p->bounce = alloc(h, AHCI_BOUNCE_SLOTS * AHCI_BOUNCE);
    if (!p->mem || (!h->dma64 && !p->bounce)) {
        co_ahci_port_free(p);
        return SR_ENOMEM;
    }
    memset(p->mem, 0, p->mem_bytes);
    for (unsigned i = 0; i < n; i++)
        le64_set(&p->mem->list[i].table, dma_map(&p->mem->table[i], sizeof(struct ahci_table)));
    return 0;
}

void co_ahci_port_free(struct ahci_port *p)
{
    if (p->mem && !p->hba->broken && co_stop_both(p))
        co_ahci_hba_fail(p->hba);
    give_back(p->hba, p->mem, p->mem_bytes);
    give_back(p->hba, p->bounce, AHCI_BOUNCE_SLOTS * AHCI_BOUNCE);
    p->mem = NULL;
    p->bounce = NULL;
}

static void set_address(struct ahci_port *p, unsigned reg, const void *at, size_t len)
{
    uint64_t a = dma_map(at, len);
    port_write(p, reg, (uint32_t)a);
    if (p->hba->dma64)
        port_write(p, reg + 4, (uint32_t)(a >> 32));
}

/* ---- The device ------------------------------------------------------------------------------ */

static void set_usable(struct ahci_port *p)
{
    unsigned n = slots(p->hba);
    p->id.ncq = p->id.ncq && p->hba->ncq;
    if (p->id.ncq)
        n = MIN(n, p->id.depth);
    p->usable = n == 32 ? UINT32_MAX : (1u << n) - 1;
}

static int failed(struct ahci_port *p, int rc, const char *why)
{
    p->failed = why;
    return rc;
}

int co_ahci_port_identify(struct ahci_port *p)
{
    uint32_t sig = port_read(p, PX_SIG);
    bool packet = sig == SIG_ATAPI;
    if (sig == SIG_MULTIPLIER)
        return failed(p, SR_ENOTSUP, "a port multiplier: not supported");
    if (sig == SIG_SEMB)
        return failed(p, SR_ENOTSUP, "an enclosure bridge: not supported");
    if (sig != SIG_DISK && !packet)
        return failed(p, SR_ENOTSUP, "no known kind of device");
    start(p, packet);
    const struct fis_h2d fis = {.command = packet ? ATA_IDENTIFY_PACKET : ATA_IDENTIFY};
    int rc = co_ahci_internal(p, &fis, ATA_IDENTIFY_BYTES);
    if (rc)
        return failed(p, rc, rc == SR_ETIMEDOUT ? "no answer to IDENTIFY" : "IDENTIFY failed");
    struct ahci_ident id;
    rc = ahci_identify_parse(&id, p->mem->scratch, packet, &p->failed);
    if (rc)
        return rc;
    p->id = id;
    set_usable(p);
    return 0;
}

/* At first the signature may have come already; else, and later, a COMRESET brings it. */
static int co_wake_device(struct ahci_port *p)
{
    uint32_t sig = port_read(p, PX_SIG);
    bool first = !p->probed;
    p->probed = true;
    if (first && sig != SIG_NONE && sig && !(port_read(p, PX_TFD) & (TFD_BSY | TFD_DRQ)))
        return 0;
    int rc = co_ahci_port_reset(p);
    return rc ? failed(p, rc, rc == SR_ETIMEDOUT ? "the device stays busy" : "the link is down")
              : 0;
}

static int co_bring_up(struct ahci_port *p)
{
    if (co_stop_both(p))
        return failed(p, SR_EIO, "its engine does not stop");
    set_address(p, PX_CLB, p->mem->list, AHCI_LIST_BYTES);
    set_address(p, PX_FB, p->mem->fis, AHCI_FIS_BYTES);
    port_write(p, PX_SERR, SERR_ALL);
    port_write(p, PX_CMD, port_read(p, PX_CMD) | CMD_FRE);
    if (!co_wait(p, PX_CMD, CMD_FR, CMD_FR, ENGINE_NS))
        return failed(p, SR_EIO, "it receives nothing");
    int rc = co_wake_device(p);
    if (!rc)
        rc = co_ahci_port_identify(p);
    if (rc == SR_ETIMEDOUT || rc == SR_EIO) { /* once more, from a clean start */
        rc = co_ahci_port_reset(p);
        if (!rc)
            rc = co_ahci_port_identify(p);
    }
    return rc;
}

static bool co_device_there(struct ahci_port *p)
{
    uint32_t cmd = port_read(p, PX_CMD), up = CMD_SUD | (cmd & CMD_CPD ? CMD_POD : 0);
    bool was_up = (cmd & up) == up;
    if (!was_up)
        port_write(p, PX_CMD, (cmd & ~CMD_ICC) | up | CMD_ICC_ACTIVE);
    if (was_up && SSTS_DET(port_read(p, PX_SSTS)) == DET_NONE)
        return false;
    return co_wait(p, PX_SSTS, 15, DET_UP, was_up ? LINK_NS : SPIN_UP_NS) && ahci_link_up(p);
}

/* Whatever comes: hot-plug events are wanted from now on. */
void ahci_port_watch(struct ahci_port *p)
{
    port_write(p, PX_SERR, SERR_ALL);
    port_write(p, PX_IS, UINT32_MAX);
    hba_write(p->hba, AHCI_IS, 1u << p->index);
    port_write(p, PX_IE, PIS_PLUG);
}

void co_ahci_port_probe(struct ahci_port *p)
{
    int rc = SR_ENODEV;
    p->failed = NULL;
    if (!p->hba->broken && co_device_there(p)) {
        rc = p->mem ? 0 : make_memory(p);
        if (rc)
            failed(p, rc, "no memory that the controller reaches");
        else
            rc = co_bring_up(p);
    }
    if (rc && p->failed)
        ahci_port_say(p, "not used: %s", p->failed);
    p->state = rc ? PORT_EMPTY : PORT_ONLINE;
    if (rc) {
        if (!p->announced)
            co_ahci_port_free(p);
        ahci_port_watch(p);
    }
}

int co_ahci_port_make(struct ahci_hba *h, unsigned index)
{
    struct ahci_port *p = sr_calloc(1, sizeof(*p));
    if (!p)
        return SR_ENOMEM;
    p->hba = h;
    p->index = index;
    p->reg = AHCI_PORTS + index * AHCI_PORT_SIZE;
    p->state = PORT_BUSY;
    ahci_port_init_commands(p);
    co_mutex_init(&p->packet_lock);
    h->port[index] = p;
    return 0;
}

/* ---- The disk -------------------------------------------------------------------------------- */

void ahci_port_announce(struct ahci_port *p)
{
    struct disk *k = &p->disk;
    const struct ahci_ident *id = &p->id;
    k->driver = "ahci";
    snprintf(k->address, sizeof(k->address), "%s", p->hba->name);
    memcpy(k->serial, id->serial, sizeof(id->serial));
    k->has_port = true;
    k->port = p->index;
    k->size = id->packet ? 0 : id->sectors * id->block_size;
    k->block_size = id->block_size;
    k->read_only = id->packet;
    k->priv = p;
    p->announced = true;
    disk_announce(k);
    log_line("ahci", "%s port %u: %s, firmware %s, %s, queue of %u, physical block %u, rotation %u",
             p->hba->name, p->index, id->model, id->firmware,
             id->packet  ? "packets"
             : id->lba48 ? "LBA48"
                         : "LBA28",
             id->ncq ? id->depth : 1, id->physical, id->rotation);
}

void ahci_port_withdraw(struct ahci_port *p)
{
    if (p->announced)
        list_remove(&p->disk.link);
    p->announced = p->foreign = false;
}
