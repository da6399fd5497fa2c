/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type "vhost-user-blk": a disk for a sibling. The device is vdisk.c, what the sibling's
 * QEMU says is vhost.c, how it comes here is relay.c.
 *
 * Restart-safe unless told otherwise: the sibling lives on when we die, and takes for done what we
 * said was done.
 */
#include "virtio/device/sibling.h"

#include <stdio.h>

#define POLL_NS (1ull * 1000000)

struct list siblings = LIST_INIT(siblings);
static struct list links = LIST_INIT(links);

void sibling_link_announce(struct sibling_link *l)
{
    list_append(&links, &l->link);
}

struct sibling_link *sibling_link_find(unsigned number)
{
    list_for_each (l, &links, struct sibling_link, link)
        if (l->number == number)
            return l;
    return NULL;
}

struct sibling *sibling_by_name(const char *name)
{
    list_for_each (s, &siblings, struct sibling, link)
        if (!strcmp(s->name, name))
            return s;
    return NULL;
}

struct sibling *sibling_by_number(unsigned number)
{
    list_for_each (s, &siblings, struct sibling, link)
        if (s->at && s->at->number == number)
            return s;
    return NULL;
}

void sibling_forget(struct sibling *s)
{
    s->exported = s->refused = s->connected = s->changed = false;
    s->at = NULL;
    vhost_reset(&s->vhost, false);
}

/* ---- The export ------------------------------------------------------------------------------- */

struct sibling_options {
    const char *sibling;
    int64_t num_queues;
    uint64_t block_size;
};
static const struct type type_queues = {
    .kind = TYPE_INT, .name = "1 to 64", .min = 1, .max = BRIDGE_QUEUES};
static const struct field sibling_fields[] = {
    FIELD_REQ(struct sibling_options, sibling, "sibling", &type_str,
              "Name of the bridge's sibling"),
    FIELD_DEF(struct sibling_options, num_queues, "num-queues", &type_queues, "1",
              "Request queues"),
    FIELD_DEF(struct sibling_options, block_size, "logical-block-size", &type_size, "512",
              "Bytes of the smallest request"),
    {0},
};
static const struct type sibling_type =
    TYPE_STRUCT_OF("BlockExportOptionsVhostUserBlk", struct sibling_options, sibling_fields);

static void on_interrupt(struct vhost *v, uint32_t call)
{
    struct sibling *s = container_of(v, struct sibling, vhost);
    if (s->at)
        s->at->ring(s->at, call);
}

static void on_base_ready(struct vhost *v)
{
    (void)v;
    relay_wake();
}

static const struct vhost_ops vhost_ops = {.interrupt = on_interrupt, .base_ready = on_base_ready};

static void on_resized(struct origin *o)
{
    struct export *e = container_of(o, struct export, origin);
    struct sibling *s = e->state;
    s->changed = true;
    relay_wake();
}

static int check_options(const struct sibling_options *o, struct error *err)
{
    if (!*o->sibling || strlen(o->sibling) >= BRIDGE_NAME_BYTES)
        return error_set(err, SR_EINVAL, "Invalid name of a sibling");
    if (sibling_by_name(o->sibling))
        return error_set(err, SR_EEXIST, "sibling '%s' has an export already", o->sibling);
    if (o->block_size < 512 || o->block_size > 65536 || !is_pow2(o->block_size))
        return error_set(err, SR_EINVAL,
                         "Parameter 'logical-block-size' expects a power of 2 from 512 to 65536");
    return 0;
}

static int co_open(struct export *e, const void *opts, struct error *err)
{
    const struct sibling_options *o = opts;
    struct sibling *s = e->state;
    int rc = check_options(o, err);
    if (rc)
        return rc;
    s->e = e;
    snprintf(s->name, sizeof(s->name), "%s", o->sibling);
    s->vhost.ops = &vhost_ops;
    s->vhost.disk = (struct vdisk){.origin = &e->origin,
                                   .id = e->id,
                                   .writable = e->writable,
                                   .block_size = (uint32_t)o->block_size,
                                   .nqueues = (unsigned)o->num_queues};
    rc = vdisk_open(&s->vhost.disk);
    if (rc)
        return rc;
    e->origin.resized = on_resized;
    sibling_forget(s);
    list_append(&siblings, &s->link);
    relay_meet(s);
    return 0;
}

/* What was taken is finished, for as long as it takes: the disk writes to the sibling's memory. When
 * we power off, the bridge keeps the sibling for whoever comes after us; else it is told. */
static void co_close(struct export *e, uint64_t deadline_ns)
{
    struct sibling *s = e->state;
    e->shutting_down = true;
    vhost_rest(&s->vhost);
    while (!vhost_at_rest(&s->vhost) ||
           (s->exported && !system_quitting() && board_clock_ns() < deadline_ns)) {
        relay_wake();
        co_sleep_ns(POLL_NS);
    }
    list_remove(&s->link);
    vdisk_close(&s->vhost.disk);
}

static const struct export_type export_vhost_user_blk = {
    .name = "vhost-user-blk",
    .options = &sibling_type,
    .state_size = sizeof(struct sibling),
    .restart_safe = true,
    .co_open = co_open,
    .co_close = co_close,
};
REGISTER(export_type, export_vhost_user_blk);
