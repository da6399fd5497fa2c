/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * When something goes wrong on a port, or a device comes or goes.
 *
 * One coroutine per port; meanwhile requests wait in line. It takes what is in flight out of the
 * slots, stops the engine, makes the port work again, decides which requests have failed, and puts
 * the others back to the front of the line:
 *
 *     task-file error   of a command that is not queued: that one fails, nothing else was in flight;
 *                       then an IDENTIFY, so that the error is over.
 *     (6.2.2)           of queued ones: the device has stopped and tells in log 10h which command it
 *                       was (ACS-3 9.14); that one fails, the others were aborted and are done
 *                       again. A device that has no such log is reset, and the others are done again
 *                       one at a time and not queued, so that an error has its owner.
 *     fatal, time-out   COMRESET and IDENTIFY. Everything is done again, one at a time; what was in
 *                       flight at two such events has failed.
 *     hot plug          COMRESET and IDENTIFY. The same device: goes on. None: requests fail with
 *                       SR_EIO, and so do those to come; the disk stays listed while a node uses it.
 *                       Another one: as none, while the old one's node is open.
 *
 * So a request is done again at most a few times, whatever controller and device say, and every wait
 * is bounded. Doing a request again is allowed: requests in flight together have no order, and a
 * write that was done twice has been done.
 *
 * An engine that does not stop: the controller is reset as a whole, and out of use (controller.c).
 */
#include "ahci/port.h"

#include <string.h>

#define MAX_ATTEMPTS 2u

static struct ahci_request *of(struct qlink *l)
{
    return container_of(l, struct ahci_request, link);
}

static void fail_all(struct ahci_port *p, struct qlink *list)
{
    for (struct qlink *next; list; list = next) {
        next = list->next;
        ahci_finish(p, of(list), SR_EIO);
    }
    ahci_pump(p); /* an EMPTY port's line fails */
}

/* Those of `list` first, then what was in line. */
static void back_in_line(struct ahci_port *p, struct qlink *list)
{
    struct queue line;
    queue_init(&line);
    for (struct qlink *next; list; list = next) {
        next = list->next;
        queue_push(&line, list);
    }
    while ((list = queue_pop(&p->line)))
        queue_push(&line, list);
    queue_init(&p->line);
    while ((list = queue_pop(&line)))
        queue_push(&p->line, list);
}

/* All were there when it happened: the third strike is the last. Returns those that go on. */
static struct qlink *charge(struct ahci_port *p, struct qlink *list, bool fatal)
{
    struct queue keep;
    queue_init(&keep);
    for (struct qlink *next; list; list = next) {
        struct ahci_request *r = of(list);
        next = list->next;
        r->attempts++;
        r->alone |= fatal || r->attempts > 1;
        if (fatal && r->attempts >= MAX_ATTEMPTS)
            ahci_finish(p, r, SR_EIO);
        else
            queue_push(&keep, list);
    }
    return keep.first;
}

static struct qlink *without(struct qlink *list, struct ahci_request *out)
{
    struct queue keep;
    queue_init(&keep);
    for (struct qlink *next; list; list = next) {
        next = list->next;
        if (list != &out->link)
            queue_push(&keep, list);
    }
    return keep.first;
}

/* In all that requests in line and the limits of an open node build on. */
static bool same_device(const struct ahci_ident *a, const struct ahci_ident *b)
{
    return !strcmp(a->serial, b->serial) && !strcmp(a->model, b->model) && a->packet == b->packet &&
           a->sectors == b->sectors && a->block_size == b->block_size && a->lba48 == b->lba48 &&
           a->fua == b->fua && a->trim == b->trim;
}

static int co_reset(struct ahci_port *p)
{
    const struct ahci_ident old = p->id;
    int rc = co_ahci_port_reset(p);
    if (!rc)
        rc = co_ahci_port_identify(p);
    if (!rc && !same_device(&old, &p->id))
        rc = SR_ENODEV;
    if (rc)
        p->id = old;
    return rc;
}

/* ---- Task-file errors ------------------------------------------------------------------------ */

static bool log_ok(const struct ata_ncq_log *log)
{
    const uint8_t *b = (const uint8_t *)log;
    uint8_t sum = 0;
    for (size_t i = 0; i < sizeof(*log); i++)
        sum = (uint8_t)(sum + b[i]);
    return !sum && !(log->tag & NCQ_LOG_NOT_QUEUED) && log->status & TFD_ERR;
}

/* The request that the device says has failed; NULL: it does not say. */
static struct ahci_request *co_culprit(struct ahci_port *p, struct ahci_request *const *was)
{
    const struct fis_h2d fis = {
        .command = ATA_READ_LOG_EXT, .lba0 = ATA_LOG_NCQ, .count = 1, .device = DEVICE_LBA};
    const struct ata_ncq_log *log = (const struct ata_ncq_log *)p->mem->scratch;
    if (port_read(p, PX_TFD) & (TFD_BSY | TFD_DRQ))
        return NULL;
    ahci_port_start(p);
    if (co_ahci_internal(p, &fis, sizeof(*log)) || !log_ok(log))
        return NULL;
    struct ahci_request *r = was[log->tag & NCQ_LOG_TAG];
    if (r)
        r->ata_error = log->error;
    return r;
}

static int co_queued_error(struct ahci_port *p, struct qlink **list,
                           struct ahci_request *const *was)
{
    struct ahci_request *r = co_culprit(p, was);
    if (!r) {
        ahci_port_say(p, "an error that has no log: reset");
        for (struct qlink *l = *list; l; l = l->next)
            of(l)->alone = true;
        return co_reset(p);
    }
    *list = charge(p, without(*list, r), false);
    ahci_port_say(p, "error %02x at sector %llu", r->ata_error, (unsigned long long)r->lba);
    ahci_finish(p, r, SR_EIO);
    return 0;
}

/* A device (QEMU's) may show the error of a command until another that is not queued has succeeded;
 * queued ones would all seem to fail. */
static int co_forget_error(struct ahci_port *p)
{
    const struct fis_h2d fis = {.command = ATA_IDENTIFY};
    return co_ahci_internal(p, &fis, ATA_IDENTIFY_BYTES) ? co_reset(p) : 0;
}

static int co_taskfile(struct ahci_port *p, struct qlink **list, struct ahci_request *const *was,
                       uint8_t error)
{
    if (p->queued)
        return co_queued_error(p, list, was);
    for (struct qlink *next, *l = *list; l; l = next) {
        struct ahci_request *r = of(l);
        next = l->next;
        r->ata_error = error;
        if (r->kind != AHCI_PACKET) /* for which errors are the ordinary way to say something */
            ahci_port_say(p, "error %02x at sector %llu", error, (unsigned long long)r->lba);
        ahci_finish(p, r, SR_EIO);
    }
    *list = NULL;
    if (port_read(p, PX_TFD) & (TFD_BSY | TFD_DRQ))
        return co_reset(p);
    ahci_port_start(p);
    return p->id.ncq ? co_forget_error(p) : 0;
}

/* ---- Hot plug -------------------------------------------------------------------------------- */

static void gone(struct ahci_port *p)
{
    p->state = PORT_EMPTY;
    if (p->announced && !p->disk.user)
        ahci_port_withdraw(p);
}

static void another(struct ahci_port *p, const struct ahci_ident *old)
{
    if (p->disk.user) {
        ahci_port_say(p, "another device, %s; not used while node '%s' is open", p->id.serial,
                      p->disk.user->name);
        p->id = *old;
        p->state = PORT_EMPTY;
        return;
    }
    ahci_port_withdraw(p);
    ahci_port_announce(p);
}

/* Leaves the state ONLINE or EMPTY. */
static void co_replug(struct ahci_port *p)
{
    const struct ahci_ident old = p->id;
    bool had = p->announced;
    if (had)
        co_ahci_link_comes(p);
    co_ahci_port_probe(p);
    if (p->state == PORT_EMPTY) {
        if (had)
            ahci_port_say(p, "the device is gone");
        p->id = old;
        gone(p);
    } else if (!had) {
        ahci_port_announce(p);
    } else if (!same_device(&old, &p->id)) {
        another(p, &old);
    }
}

/* ---- One recovery ---------------------------------------------------------------------------- */

static const char *reason(unsigned why)
{
    if (why & WHY_TIMEOUT)
        return "a command takes too long";
    return why & WHY_FATAL ? "a bus or interface error" : "an error";
}

static void co_lost(struct ahci_port *p, struct qlink *list, const char *why)
{
    ahci_port_say(p, "does not come back: %s", why);
    gone(p);
    if (!p->hba->broken)
        ahci_port_watch(p);
    fail_all(p, list);
}

static int co_repair(struct ahci_port *p, unsigned why, struct qlink **list,
                     struct ahci_request *const *was, uint8_t error)
{
    if (why & (WHY_TIMEOUT | WHY_FATAL)) {
        ahci_port_say(p, "%s: reset", reason(why));
        int rc = co_reset(p);
        *list = charge(p, *list, true); /* not before the reset: memory goes back to its owners */
        return rc;
    }
    return co_taskfile(p, list, was, error);
}

static void co_once(struct ahci_port *p, unsigned why)
{
    struct ahci_request *was[AHCI_MAX_SLOTS];
    bool plug = why & WHY_PLUG || !ahci_link_up(p);
    if (p->queued && !plug)
        ahci_complete(p);
    uint8_t error = TFD_ERROR(port_read(p, PX_TFD));
    memcpy(was, p->slot, sizeof(was));
    struct qlink *list = ahci_take_all(p);
    if (p->mem && !p->hba->broken && co_ahci_port_stop(p))
        co_ahci_hba_fail(p->hba);
    if (p->hba->broken || why & WHY_STOP) {
        p->state = PORT_EMPTY;
        fail_all(p, list);
        return;
    }
    if (plug) {
        co_replug(p);
        list = charge(p, list, true);
    } else if (co_repair(p, why, &list, was, error)) {
        co_lost(p, list, p->failed ? p->failed : "no device after a reset");
        return;
    } else {
        p->state = p->hba->broken ? PORT_EMPTY : PORT_ONLINE;
    }
    back_in_line(p, list);
    ahci_pump(p);
}

static void co_recover(void *arg)
{
    struct ahci_port *p = arg;
    while (p->why) {
        unsigned why = p->why;
        p->why = 0;
        p->state = PORT_BUSY;
        co_once(p, why);
    }
    p->running = false;
}

void ahci_recover(struct ahci_port *p, unsigned why)
{
    p->why |= why;
    if (p->running)
        return;
    p->running = true;
    p->state = PORT_BUSY;
    co_start_child(&p->recovery, co_recover, p);
}

void co_ahci_settle(struct ahci_port *p)
{
    while (p->running)
        co_sleep_ns(100000);
}
