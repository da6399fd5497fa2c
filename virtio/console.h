/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H
/*
 * Between console.c (ports, control messages, queues) and console_stream.c (the byte stream of one
 * opening). Loop 0.
 */
#include "kernel/port.h"
#include "kernel/stream.h"
#include "virtio/console_spec.h"
#include "virtio/virtio.h"

#define CONSOLE_SLOTS 8u
#define CONSOLE_PIECE 2048u /* bytes per buffer */

struct console_stream;
struct console_port {
    struct port port;
    struct virtio_device *dev;
    struct virtq *rx, *tx;
    unsigned id;
    bool added, announced, host_open;
    uint8_t *rx_memory, *tx_memory; /* CONSOLE_SLOTS pieces each */
    struct rx_buffer {
        uint32_t len, off; /* received, of which `off` are in the stream */
        uint8_t index;
    } rx_buffer[CONSOLE_SLOTS];
    struct rx_buffer *held[CONSOLE_SLOTS]; /* received, no room in the stream yet; oldest first */
    unsigned nheld;
    struct co_queue tx_wait; /* for a free slot of tx */
    struct console_stream *stream;
};

/* NULL: no memory. */
struct console_stream *console_stream_open(struct console_port *p);
/* The host has closed, or the device is lost: what is there can be read, nothing more comes. */
void console_stream_hangup(struct console_stream *s);
struct stream *console_stream_base(struct console_stream *s);
/* Takes received bytes; returns how many it had room for. */
size_t console_stream_put(struct console_stream *s, const uint8_t *p, size_t n);

/* Takes what was received and fits. */
void console_port_pull(struct console_port *p);
/* The next free piece of the transmit queue, NULL: none now. Then send it. */
uint8_t *console_tx_room(struct console_port *p, struct virtq_chain *c);
void console_tx_send(struct console_port *p, struct virtq_chain *c, size_t len);
void console_tx_want(struct console_port *p, bool want);
#endif
