/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_VRING_H
#define VIRTIO_DEVICE_VRING_H
/*
 * A virtqueue, device's side. Whoever is on the other side is an attacker: addresses are valid only
 * inside the windows that were given to us, lengths and links are checked before use, and each
 * descriptor is copied once before it is looked at. A ring that makes no sense is broken for good.
 *
 * Addresses are the driver's; a window maps [base, base + len) of them to memory of ours. Loopback: one
 * window over everything, because there DMA addresses are pointers. One loop; nothing yields.
 */
#include "kernel/iov.h"
#include "virtio/virtio_spec.h"

struct vwindow {
    uint64_t base, len;
    uint8_t *at;
};
struct vmemory {
    const struct vwindow *window;
    unsigned count;
};
/* NULL: not inside one window. */
void *vmemory_at(const struct vmemory *m, uint64_t addr, uint64_t len);

#define VCHAIN_MAX 256u
/* What a chain is given back by. */
struct vring_id {
    uint16_t id;
    uint16_t count; /* packed: how many descriptors of the ring it took */
};
struct vchain {
    struct vring_id id;
    unsigned nout, nin; /* seg[0 .. nout-1] to read, then nin to write */
    size_t out_len, in_len;
    struct seg seg[VCHAIN_MAX];
};
struct vring {
    const struct vmemory *memory;
    union {
        struct { /* split */
            struct vring_desc *desc;
            struct vring_avail *avail;
            struct vring_used *used;
        };
        struct { /* packed */
            struct vring_packed_desc *ring;
            struct vring_event *driver_event, *device_event;
        };
    };
    uint16_t size, avail_idx, used_idx; /* free-running; see virtq.h */
    uint16_t signalled;                 /* used_idx when the driver was last interrupted */
    bool packed, event_idx, indirect, broken;
};

/* Areas are those of 2.6: descriptors, what the driver writes, what the device writes. SR_EINVAL: a
 * size that is no power of two, an area that is not aligned or outside the windows. */
int vring_open(struct vring *r, const struct vmemory *m, unsigned size, uint64_t desc,
               uint64_t driver, uint64_t device, uint64_t features);
/* Goes on at this index, of a split ring in which all before it is used. */
void vring_resume(struct vring *r, uint16_t index);
/* 1: *c is the next chain; 0: none; SR_EIO: broken. */
int vring_pop(struct vring *r, struct vchain *c);
void vring_push(struct vring *r, struct vring_id id, uint32_t written);
/* Does the driver want an interrupt for what was pushed since the last question? */
bool vring_interrupt(struct vring *r);
/* Ask for a notification at the next chain, or not; look once more after asking. */
void vring_notify_me(struct vring *r, bool please);

/* What the driver gave to read, what it gave to write. */
struct iov vchain_out(const struct vchain *c);
struct iov vchain_in(const struct vchain *c);
#endif
