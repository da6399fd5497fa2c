/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_PEER_H
#define TESTS_UNIT_SUPPORT_PEER_H
/*
 * A TCP peer of a few lines that says whatever it is told to, over a card of support_wire.h. It
 * answers ARP, and otherwise only watches: what came last, and how many payload bytes in order.
 * The machine is 10.0.9.1, the peer 10.0.9.2; its window and MSS are what the test sets.
 */
#include "tests/unit/support_wire.h"

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };

struct peer {
    struct wire_card card;
    uint16_t port, window;
    uint32_t seq, ack; /* next byte we send; next byte we expect */
    bool auto_ack;     /* acknowledge whatever comes in order */
    /* what came */
    unsigned frames, resets, syn_acks, fins;
    uint32_t their_seq, their_ack, their_window;
    size_t longest; /* payload of a frame */
    uint64_t bytes; /* in order */
    void (*on_bytes)(struct peer *p, const uint8_t *data, size_t len, uint64_t pos);
};

void peer_start(struct peer *p, unsigned features, unsigned rx_buffers);
/* One segment; options of opt_len bytes (a multiple of 4). Neither seq nor ack move. */
void peer_send(struct peer *p, uint32_t seq, uint32_t ack, unsigned flags, const void *opt,
               size_t opt_len, const void *data, size_t len);
/* Payload in order; moves seq. */
void peer_data(struct peer *p, const void *data, size_t len);
/* SYN with these options from a fresh port. The answer is in syn_acks, resets. */
void peer_syn(struct peer *p, const void *opt, size_t opt_len);
/* The last step of the handshake. */
void peer_establish(struct peer *p);
#endif
