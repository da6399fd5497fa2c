/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_WIRE_H
#define TESTS_UNIT_SUPPORT_WIRE_H
/*
 * Network cards for tests: two of them joined by a wire that loses frames, or one whose other end is
 * the test (`on_frame`). The card does what its features say, by code of its own: it cuts segments,
 * finishes checksums from the pseudo-header's sum, and verifies what it is to verify. Transmit rings
 * are short and complete in the next turn, so that a full ring is an everyday thing.
 */
#include "kernel/kernel.h"
#include "kernel/nic.h"

#define WIRE_RING 64
#define WIRE_BUF  2048

struct wire_card {
    struct nic nic;
    struct wire_card *peer; /* NULL: on_frame gets everything */
    void (*on_frame)(struct wire_card *c, const uint8_t *frame, size_t len, unsigned gso_size);
    unsigned loss;             /* of what this card sends, frames on the wire in 10,000 */
    unsigned ring_limit;       /* frames that the ring takes, at most WIRE_RING */
    bool hold;                 /* the device reads nothing for now */
    uint64_t sent, lost, full; /* frames on the wire; those lost; transmits that found no room */
    uint64_t bad_sums;         /* frames whose checksum was wrong on the wire */
    size_t longest;            /* frame given to transmit */
    unsigned in_ring;
    struct wire_tx *ring[WIRE_RING];
    struct nic_rx_buf *bufs, *free;
    uint8_t *memory;
    struct poller poller;
    bool wants_space;
    bool in_batch; /* more frames follow at once */
};
/* features: NIC_*. mtu of 1500. Registers nothing: give it to net_attach. */
void wire_card_init(struct wire_card *c, unsigned index, unsigned features, unsigned rx_buffers);
void wire_join(struct wire_card *a, struct wire_card *b);
/* A frame arrives at the card's network room. False: no buffers. */
bool wire_deliver(struct wire_card *c, const uint8_t *frame, size_t len, unsigned flags);
extern uint64_t wire_seed;
uint32_t wire_random(void);
/* Internet checksum over TCP and pseudo-header of a frame that begins at Ethernet; 0 is right. */
uint16_t wire_tcp_sum(const uint8_t *frame, size_t len);
#endif
