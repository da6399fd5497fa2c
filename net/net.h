/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NET_NET_H
#define NET_NET_H
/*
 * net/: TCP/IP by lwIP over network cards (kernel/nic.h), and TCP as byte streams (kernel/stream.h).
 *
 *   lwip_port.c    what lwIP asks of its platform: time, memory, checksum; the turn hook
 *   lwip_netif.c   a card as lwIP's interface; receiving
 *   lwip_tx.c      transmitting: super-segments, checksums, what the card cannot do
 *   lwip_hooks.c   lwIP's hooks: segments that it must not see
 *   lwip_tcp.c     streams: sending, closing, the connection's life; lwip_tcp_rx.c: receiving
 *   lwip_listen.c  listeners
 *   lwip_netdev.c  --netdev, DHCP, addresses
 *   nbd/           the NBD server
 *
 * Context: loop 0. lwIP is one global instance; only files named net/lwip* may include its headers.
 * Lengths are bytes. Errors: SR_E* with a sentence. Nothing is allocated after a connection is open.
 */
#include "kernel/error.h"
#include "kernel/nic.h"
#include "kernel/stream.h"

/* Addresses of one interface, as text. NULL strings: absent. */
struct net_config {
    const char *ip;      /* "dhcp", "10.0.2.15/24", or NULL: no IPv4 */
    const char *gateway; /* IPv4 or IPv6 */
    const char *ip6;     /* "auto", "off", "fd00::15/64" */
    unsigned mtu;        /* 0: the card's */
};
/* Gives the card to lwIP. Once per card; the card lives for ever. SR_EINVAL, SR_ENOMEM, SR_EBUSY. */
int net_attach(struct nic *n, const struct net_config *c, struct error *err);
/* True when every interface that asked for DHCP has an address. */
bool net_configured(void);

/* What co_listen does on firmware. `a->type` is ADDR_INET. */
struct net_listener;
struct net_listener *net_listen(const struct listen_address *a, unsigned backlog,
                                void (*accepted)(void *ctx, struct stream *s), void *ctx,
                                struct error *err);
void net_unlisten(struct net_listener *l);
#endif
