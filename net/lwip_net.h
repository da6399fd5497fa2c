/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NET_LWIP_NET_H
#define NET_LWIP_NET_H
/*
 * Between the files net/lwip_*.c; nobody else includes it. Loop 0.
 */
#include "kernel/kernel.h"
#include "net/net.h"

#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/tcp.h"

/* ---- A card as an interface ---- */

struct tx_job;
struct netport {
    struct netif netif;
    struct nic *nic;
    unsigned rx_total;    /* receive buffers of the card */
    unsigned rx_held;     /* those that pbufs hold */
    struct queue waiting; /* struct tx_job: the card's ring was full */
    bool kick;            /* frames were queued since the last kick */
    bool dhcp;
    char announced[200]; /* the console line of its addresses */
    struct nic_rx_buf
        *ack; /* the last frame, if it only acknowledges: a later one may replace it */
    unsigned ack_flags;
};
#define NET_PORTS_MAX 8
extern struct netport *net_ports[NET_PORTS_MAX];
extern unsigned net_port_count;

static inline unsigned netport_rx_free(const struct netport *port)
{
    return port->rx_total > port->rx_held ? port->rx_total - port->rx_held : 0;
}
/* The port whose receive buffer p is in, or NULL: it is one of our copies. */
struct netport *netport_of(const struct pbuf *p);
/* It is; count it in *held until it goes back to the card. */
void netport_charge(struct pbuf *p, unsigned *held);
/* Not yet up. The port lives for ever. */
int netport_open(struct nic *n, unsigned mtu, struct netport **out);

/* ---- lwip_tx.c ---- */

err_t net_tx(struct netif *netif, struct pbuf *p); /* netif->linkoutput */
void net_tx_space(struct nic *n);
void net_tx_turn_end(void);
/* The next frame belongs to this connection. */
void net_tx_announce(const struct tcp_pcb *pcb, const struct pbuf *p);
/* Frames are numbered as they come. Gives memory back to its owner as soon as no card reads any
 * frame up to `last`, the last that may refer to it. */
void net_tx_release(struct stream_hold *h, uint64_t last);
/* Releases h when everything that was given to net_tx_release so far is back with its owner. */
void net_tx_release_last(struct stream_hold *h);

/* ---- lwip_port.c ---- */

void net_start(void); /* once; later calls do nothing */
/* Partial sum of the Internet checksum (RFC 1071), to be folded by the caller. */
uint64_t net_sum(const void *data, size_t len);
static inline uint16_t net_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}
/* Something happened that lwIP's timers may have to know of. */
void net_timers_changed(void);

/* lwip_hooks.c: puts right what lwIP's timers would assert. */
void net_before_timers(void);

/* ---- Streams ---- */

#define TCP_STREAMS_MAX 104
/* Copies: what a connection sends in small pieces, and what it received when the ring was low. */
#define NET_CHUNK       2048
#define NET_CHUNKS_SEND 1 /* guaranteed to each connection */
#define NET_CHUNKS_RECV 3

/* tcp_ext_arg of slot 0: the MSS on the wire; 0: not a connection of ours yet. callback_arg of such
 * a pcb is its stream, or NULL when that is closed. */
extern u8_t net_ext_wire;
static inline u16_t net_wire(const struct tcp_pcb *pcb)
{
    return (u16_t)(uintptr_t)tcp_ext_arg_get(pcb, net_ext_wire);
}

struct net_chunk;
struct tcp_stream {
    struct stream s;
    struct tcp_pcb *pcb; /* NULL: lwIP has done with it */
    struct list link;    /* all streams */
    struct list dirty;   /* to be looked at in the end of this turn */
    int error;
    bool eof, aborting, closing, ack_due;
    u16_t wire;
    /* receiving: pbufs by `next`; rx_off bytes of the first are consumed */
    struct pbuf *rx_head, *rx_tail;
    size_t rx_off, available, loaned;
    bool squeezed;      /* something in the row had to be copied */
    unsigned ring_held; /* receive buffers of cards, in the row or lent */
    size_t promise;     /* rcv_wnd + available + loaned */
    struct co *reader;
    size_t need;
    struct timer rx_timer;
    struct credit rx_chunks;
    /* sending */
    struct co_mutex send_turn;
    unsigned senders;  /* coroutines in a sending call */
    struct co *sender; /* waits for room in lwIP's queue */
    unsigned queued;   /* pbufs in lwIP's queue, as accounted */
    uint64_t written, acked, tx_seq;
    struct queue holds; /* struct stream_hold by `end` */
    struct net_chunk *chunk;
    struct credit tx_chunks;
    struct co *closer;
    struct stream_hold last; /* behind all other holds, when the stream closes */
    bool last_released;
};
struct net_chunk {
    union {
        struct pbuf_custom rx;
        struct stream_hold tx;
    };
    struct tcp_stream *owner;
    u16_t used;
    uint8_t data[NET_CHUNK];
};
extern struct pool net_chunk_pool;
extern struct list net_streams;
extern unsigned net_stream_count;

/* Makes a stream of a connection: in the accept callback, before lwIP computes the congestion
 * window (P2). NULL: no memory, or a peer with a silly MSS; the caller aborts. */
struct tcp_stream *tcp_stream_new(struct tcp_pcb *pcb);
void tcp_stream_dirty(struct tcp_stream *t);
void tcp_streams_flush(void); /* end of turn */

/* lwip_tcp_rx.c */
#define RX_LARGE_FRAME 34u /* receive buffers of 2 KiB for 64 KiB */
void tcp_rx_open(struct tcp_stream *t);
err_t tcp_rx_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err);
/* May a segment of len bytes that came through this port be acknowledged? (rule 3) */
bool tcp_rx_admit(struct tcp_stream *t, const struct netport *port, size_t len);
void tcp_rx_discard(struct tcp_stream *t);
void tcp_rx_announce(struct tcp_stream *t);
void tcp_rx_wake(struct tcp_stream *t); /* the reader, if it has a reason to go on */
void tcp_rx_close(struct tcp_stream *t);
void tcp_rx_listen(struct tcp_pcb *listener);
int tcp_rx_co_wait(struct stream *s, size_t n, uint64_t deadline_ns);
size_t tcp_rx_available(struct stream *s);
void tcp_rx_borrow(struct stream *s, size_t n, struct stream_loan *loan);
void tcp_rx_release(struct stream_loan *loan);
void tcp_rx_copy(struct stream *s, void *dst, size_t n, bool consume);
/* lwip_tcp.c: data arrived or was acknowledged while the stream closes. */
void tcp_stream_settle(struct tcp_stream *t);
#endif
