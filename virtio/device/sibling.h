/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_SIBLING_H
#define VIRTIO_DEVICE_SIBLING_H
/*
 * Siblings: guests of the same host, to whom we export disks by way of the bridge (bridge_spec.h).
 *
 *     sibling.c   export type "vhost-user-blk": a vhost back end that belongs to a sibling
 *     relay.c     the session with the bridge, which finds the exports and carries their messages
 *     ivshmem.c   finds siblings' memory among the PCI devices; another transport is one more file
 *
 * Loop 0.
 */
#include "kernel/stream.h"
#include "virtio/device/vhost.h"

/* ---- What a transport finds ---- */

/* The memory of one sibling, mapped for ever, and its interrupts. */
struct sibling_link {
    struct list link;
    unsigned number; /* the bridge's */
    uint8_t *memory;
    uint64_t size;
    unsigned vectors; /* that can wake us; at least 1 */
    void (*ring)(struct sibling_link *l, uint32_t call);
};
void sibling_link_announce(struct sibling_link *l);
struct sibling_link *sibling_link_find(unsigned number); /* NULL */

/* ---- Between exports and the relay ---- */

struct sibling { /* state of an export */
    struct vhost vhost;
    struct list link; /* of all */
    struct export *e;
    char name[BRIDGE_NAME_BYTES];
    /* Of the running session. */
    struct sibling_link
        *at;       /* NULL: the bridge knows no such sibling, or we do not see its memory */
    bool exported; /* as the bridge was told */
    bool refused;  /* its front end makes no sense: to be thrown out */
    bool connected, changed; /* changed: it is to be told that the configuration has */
};
extern struct list siblings;
struct sibling *sibling_by_name(const char *name);
struct sibling *sibling_by_number(unsigned number);
/* The session has ended, or begins. Rings come to rest in silence. */
void sibling_forget(struct sibling *s);

/* Serves the bridge at the other end of a stream until it ends, and closes it. One session at a time:
 * waits for the end of another. */
void co_relay(void *stream);
/* Something is to be said. */
void relay_wake(void);
/* An export came, whose sibling the bridge may have named already. */
void relay_meet(struct sibling *s);
#endif
