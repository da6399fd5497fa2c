/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_MODELS_H
#define VIRTIO_DEVICE_MODELS_H
/*
 * Device models for the loopback arrangement. Each is filled by its _init with sensible defaults;
 * change members (vdev.offered, vdev.config, knobs) before co_vdev_attach. They live until
 * co_vdev_detach, in memory of the caller.
 */
#include "virtio/blk_spec.h"
#include "virtio/console_spec.h"
#include "virtio/device/loopback.h"
#include "virtio/net_spec.h"

/* ---- A disk in memory ------------------------------------------------------------------------ */

struct vblk {
    struct vdev v;
    uint8_t *data; /* the caller's */
    uint64_t size; /* bytes, multiple of 512 */
    char serial[VIRTIO_BLK_ID_BYTES + 1];
    /* knobs */
    bool hold;          /* takes requests, completes none until vblk_release */
    bool no_status;     /* completes without writing one */
    bool backwards;     /* completes what one notification brought in reverse order */
    int fail_status;    /* for the next requests (VIRTIO_BLK_S_*), -1: as it should be */
    unsigned fail_left; /* how many of them */
    unsigned fail_skip; /* after this many */
    /* seen */
    unsigned nheld, max_held, max_segs;
    uint32_t max_seg_len, last_flags;
    uint64_t requests[16]; /* by type */
    struct vchain *held;   /* VBLK_HELD of them */
};
#define VBLK_HELD 1024u
int vblk_init(struct vblk *b, uint8_t *data, uint64_t size, const char *serial); /* SR_ENOMEM */
void vblk_free(struct vblk *b);
void vblk_release(struct vblk *b); /* hold = false, and does what was held */
void vblk_resize(struct vblk *b, uint8_t *data, uint64_t size);
struct virtio_blk_config *vblk_config(struct vblk *b);

/* ---- Two network cards and a wire ------------------------------------------------------------ */

struct vnet {
    struct vdev v;
    struct vnet *peer;
    struct vwire *wire;
    struct queue arriving; /* frames on their way to this card, by due time */
    struct timer due;
    unsigned rx_pieces; /* test: bytes written to each receive buffer at most; 0: all it has */
};
struct vwire { /* what happens to frames; of 1000 */
    unsigned loss, reorder;
    uint64_t delay_ns, jitter_ns; /* reordered frames take up to jitter longer */
    uint32_t seed;
    uint64_t frames, lost, reordered;
};
/* One pair with these MACs, both with all features that the driver knows. */
void vnet_pair_init(struct vnet *a, struct vnet *b, struct vwire *w);
/* Puts a frame on the way to the card, with this header (num_buffers is set here). */
int vnet_inject(struct vnet *to, const struct virtio_net_hdr *h, const void *frame, size_t len);
struct virtio_net_config *vnet_config(struct vnet *n);

/* ---- A console with ports -------------------------------------------------------------------- */

#define VCONSOLE_PORTS 4u
struct vconsole {
    struct vdev v;
    struct vconsole_port {
        const char *name; /* NULL: no such port */
        bool connected, guest_open, ready;
        uint8_t got[65536]; /* what the driver sent */
        size_t ngot;
        const uint8_t *out; /* what is still to be sent to it */
        size_t nout;
    } port[VCONSOLE_PORTS];
    bool driver_ready, stuck; /* stuck: does not take what the driver sends */
    struct queue events;      /* struct vconsole_event, when no buffer is there */
};
void vconsole_init(struct vconsole *c);
void vconsole_add(struct vconsole *c, unsigned port, const char *name); /* before or after attach */
void vconsole_connect(struct vconsole *c, unsigned port, bool open);
/* data stays the caller's until all was taken (port[].nout == 0). */
void vconsole_send(struct vconsole *c, unsigned port, const void *data, size_t len);
void vconsole_unstick(struct vconsole *c);
void vconsole_control(struct vconsole *c, unsigned port, unsigned event, unsigned value,
                      const void *more, size_t len);

/* ---- Random bytes ---------------------------------------------------------------------------- */

struct vrng {
    struct vdev v;
    uint64_t given;
    bool silent;
};
void vrng_init(struct vrng *r);
#endif
