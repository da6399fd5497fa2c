/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_VHOST_H
#define VIRTIO_DEVICE_VHOST_H
/*
 * vhost-user, back end: the messages of one sibling's QEMU, and what they make of a block device.
 * Source: QEMU, docs/interop/vhost-user.rst (vhost_user_spec.h). Descriptors are handles here, as
 * in bridge_spec.h.
 *
 * Each message only changes what is wanted (struct vhost_ring); `settle` compares that with the
 * state of the queue, and starts or stops it, again when a queue has come to rest. So a new start
 * may arrive while requests of the last one are still on their way, and nothing here waits.
 *
 * Messages are foreign bytes. Addresses are translated in two steps: SET_VRING_ADDR speaks of the
 * front end's memory, which the table turns into guest addresses, and guest addresses are looked up
 * in windows of the one memory that we see. Loop 0; nothing yields.
 */
#include "virtio/device/bridge_spec.h"
#include "virtio/device/vdisk.h"

struct vhost;
struct vhost_ops {
    void (*interrupt)(struct vhost *v, uint32_t call);
    /* GET_VRING_BASE of this ring can be answered now: vhost_base_reply. */
    void (*base_ready)(struct vhost *v);
};
struct vhost_ring { /* as the messages said */
    uint16_t size, base;
    bool placed, kicked, enabled;
    bool failed;       /* could not be started: not again before something about it changes */
    bool rebased;      /* base is news to the queue that is closing */
    bool asked, ready; /* GET_VRING_BASE: to be answered; at rest, so that it can be */
    uint16_t tag;      /* of that */
    bool signal;
    uint32_t call;
    uint64_t desc, avail, used; /* front end's addresses */
};
struct vhost {
    struct vdisk disk;
    const struct vhost_ops *ops;
    uint8_t *memory; /* all that we see of the sibling's; NULL: nothing */
    uint64_t memory_size;

    /* state */
    bool replaying;
    uint64_t features, protocol;
    struct vmemory windows;
    struct vwindow window[VHOST_USER_REGIONS];
    uint64_t user[VHOST_USER_REGIONS]; /* front end's address of each window */
    struct vhost_ring ring[BRIDGE_QUEUES];
};

struct vhost_message {
    uint32_t request;
    bool need_reply;
    uint16_t tag;
    const uint8_t *payload;
    uint32_t size;
    const uint64_t *handle;
    unsigned handles;
};
#define VHOST_REPLY_MAX \
    (sizeof(struct vhost_user_header) + sizeof(struct vhost_user_config) + VHOST_USER_CONFIG_BYTES)

/* v->disk is open. Forgets the front end; rings come to rest without another access to memory.
 * replaying: nothing is started before vhost_replayed. */
void vhost_reset(struct vhost *v, bool replaying);
void vhost_replayed(struct vhost *v);
/* Rings come to rest, what was taken from them is finished; until the front end kicks anew. */
void vhost_rest(struct vhost *v);
bool vhost_at_rest(const struct vhost *v); /* all queues are closed */
/* A message, whose header was checked: its reply in `reply` (VHOST_REPLY_MAX bytes). Returns the
 * reply's length, 0: none (yet). SR_EINVAL: it makes no sense, and the front end cannot be told. */
int vhost_message(struct vhost *v, const struct vhost_message *m, uint8_t *reply);
/* The next due reply to GET_VRING_BASE; 0: none. */
size_t vhost_base_reply(struct vhost *v, uint8_t *reply, uint16_t *tag);
/* Does the front end want to hear of configuration changes? The message that tells it. */
bool vhost_hears_changes(const struct vhost *v);
size_t vhost_config_change(uint8_t *message);
#endif
