/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_NIC_H
#define KERNEL_NIC_H
/*
 * A network interface card as the network room sees it; virtio-net implements it, a loopback pipe
 * in the tests too. Frames start at the Ethernet header. Lengths in bytes. All calls on the nic's
 * loop (0). Errors: transmit may fail with SR_EAGAIN (ring full: the caller keeps the frame and
 * hears tx_space later).
 *
 * Receiving lends: rx(nic, frame) gives a chain of buffers that the network room owns until
 * nic->ops->rx_return. Headers (Ethernet, IP, TCP) are contiguous in the first buffer. A frame may
 * be up to 65549 bytes when GUEST_TSO was negotiated. Buffers may come back from within rx, in any
 * order, singly or chained; those of one large frame never stay out for long.
 * With GUEST_TSO there are enough for three large frames, or one held back would block the next.
 *
 * Transmitting: done() is called from every poll, before frames are received in it, so that memory
 * is not given back to its owner while an old frame still refers to it. There is no interrupt for
 * it while `tx_wanted` is false and no frame was refused.
 */
#include "kernel/iov.h"
#include "kernel/list.h"
#include "kernel/registry.h"

struct nic;
struct nic_rx_buf {          /* one receive buffer; the driver allocates them all at start */
    struct nic_rx_buf *next; /* rest of this frame */
    uint8_t *data;
    uint16_t len;
    uint64_t opaque[8]; /* room for the receiver (a custom pbuf) while it owns the buffer: see
                           NIC_RX_PRIV */
    struct nic *nic;
    uint16_t id; /* driver's */
};
enum {
    NIC_RX_CSUM_PARTIAL = 1, /* only a pseudo-header sum: came from this host, do not verify */
    NIC_RX_CSUM_VALID = 2,
    /* the device verified it */
};
struct nic_tx_meta { /* how the device shall finish the frame */
    bool csum;       /* sum from csum_start, store at csum_start + csum_offset */
    uint16_t csum_start, csum_offset;
    uint8_t gso; /* 0 none, 4 TCPv4, 6 TCPv6 */
    uint16_t gso_size, hdr_len;
};
enum { NIC_CSUM = 1, NIC_GUEST_CSUM = 2, NIC_TSO4 = 4, NIC_TSO6 = 8, NIC_GUEST_TSO = 16 };
#define NIC_RX_BUFFERS_UNTOLD 64
struct nic_ops {
    /* Queue one frame; `done(cookie)` is called when the device no longer reads it, for
     * earlier frames also from within. Segments are DMA memory; their list is only read during the call. SR_EAGAIN: ring
     * full, tx_space follows; anything else: refused for good, done is not called. */
    int (*transmit)(struct nic *n, struct iov frame, const struct nic_tx_meta *m,
                    void (*done)(void *cookie), void *cookie);
    void (*rx_return)(struct nic *n, struct nic_rx_buf *chain);
    void (*kick)(
        struct nic *n); /* tell the device about queued frames: once at the end of a turn */
};
struct nic {
    struct list link;
    const struct nic_ops *ops;
    unsigned features; /* NIC_* negotiated */
    unsigned index;    /* discovery order */
    uint8_t mac[6];
    uint16_t mtu; /* device's MTU field, 1500 without */
    unsigned max_tx_segs;
    unsigned rx_buffers; /* receive buffers in all; 0: at least NIC_RX_BUFFERS_UNTOLD */
    bool link_up;
    void *priv; /* the driver's */
    /* set by the network room, before the first rx; until then the driver gives frames away */
    void (*rx)(struct nic *n, struct nic_rx_buf *chain, unsigned flags);
    void (*rx_batch_end)(struct nic *n); /* after each batch of rx calls */
    void (*tx_space)(struct nic *n);
    void (*link_change)(struct nic *n);
    bool tx_wanted; /* somebody waits for done(): interrupt for it before sleeping */
    void *net;
};
void nic_register(
    struct nic *n); /* by drivers, during probe; sets index, prints the console line */
struct nic *nic_find(unsigned index); /* NULL */
unsigned nic_count(void);
#endif
