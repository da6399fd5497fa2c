/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_VDISK_H
#define VIRTIO_DEVICE_VDISK_H
/*
 * The virtio block device (virtio 1.2, 5.2) over an origin of the graph. Whoever owns one brings
 * its queues' memory and carries its interrupts (vhost.c); the driver is an attacker.
 *
 * A queue is closed, open, or closing: no more is taken from its ring, and when all that was taken
 * is published, `idle` says that it is closed. A queue whose ring makes no sense is broken until it
 * is closed: reported, nothing more is taken from it, what was taken is published.
 *
 * Units: sectors of 512 bytes in requests, bytes elsewhere. Everything on loop 0; requests run in
 * coroutines of their own, and nothing else here yields. Callbacks come from the end of a turn.
 */
#include "blk/blk.h"
#include "virtio/blk_spec.h"
#include "virtio/device/vring.h"

#define VDISK_QUEUE_SIZE 1024u /* entries of a ring, at most */

struct vdisk;
struct vdisk_request;
struct vdisk_slot;
struct vdisk_ops {
    void (*interrupt)(struct vdisk *d, unsigned queue);
    void (*idle)(struct vdisk *d, unsigned queue);
};
struct vdisk_queue {
    struct vdisk *disk;
    struct vring ring;
    enum vdisk_state { VDISK_CLOSED, VDISK_OPEN, VDISK_CLOSING } state;
    bool silent;                /* closing, and the memory is not to be touched any more */
    uint16_t popped, published; /* free-running, from the ring's first index */
    struct vdisk_slot *order;   /* [VDISK_QUEUE_SIZE], by index: what was taken and not published */
    struct list dirty;          /* in the list of queues to look at when the turn ends */
};
struct vdisk {
    const struct vdisk_ops *ops;
    struct origin *origin;
    const char *id; /* of the export: serial number, and for messages */
    bool writable;
    uint32_t block_size; /* logical; a power of two from 512 */
    unsigned nqueues;

    /* state */
    uint64_t features; /* what the driver chose */
    bool writeback;    /* the driver's wish, CONFIG_WCE */
    unsigned running;  /* requests */
    struct queue free; /* struct vdisk_request.link */
    struct vdisk_request *requests;
    struct vdisk_queue *queue;
    struct poller poller;
    uint64_t reported_ns; /* when a broken queue last made an event */
};

/* ops, origin, id, writable, block_size and nqueues are set, the rest is zero. SR_ENOMEM. */
int vdisk_open(struct vdisk *d);
/* Every queue is closed. */
void vdisk_close(struct vdisk *d);

uint64_t vdisk_features(const struct vdisk *d); /* offered */
/* The driver's choice (unknown bits count for nothing). Also brings back the default cache mode. */
void vdisk_set_features(struct vdisk *d, uint64_t features);
/* Configuration space. Reading: zeroes behind its end. Writing: SR_EINVAL for what is not to be
 * written, or with a value that makes no sense. */
void vdisk_config_read(const struct vdisk *d, size_t off, void *to, size_t len);
int vdisk_config_write(struct vdisk *d, size_t off, const void *from, size_t len);

/* A closed queue; requests are taken from `base` on. m stays the caller's and may change while the
 * queue is open. SR_EINVAL: a size or an address that will not do; also reported. */
int vdisk_start(struct vdisk *d, unsigned queue, const struct vmemory *m, unsigned size,
                uint64_t desc, uint64_t avail, uint64_t used, uint16_t base);
/* Of an open or closing queue. silent: what was taken is done, without a trace in the ring. */
void vdisk_stop(struct vdisk *d, unsigned queue, bool silent);
/* Index of the first entry that was not published. */
uint16_t vdisk_base(const struct vdisk *d, unsigned queue);
#endif
