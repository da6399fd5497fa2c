/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Segments that lwIP 2.1.3 must not see. It is used unpatched; these are its mistakes that a peer can
 * reach, each of which ends in one of its assertions, and the rule that keeps it away:
 *
 *   - An MSS option is obeyed in any segment. A smaller one makes the next tcp_write assert, when a
 *     segment on the unsent queue is longer. A window scale in a second SYN asserts that the window is
 *     untouched. Rule: options are for listeners (and connections that wait for their SYN-ACK);
 *     elsewhere they are overwritten with NOPs. lwIP would use no other: there are no timestamps.
 *   - A segment out of order that reaches beyond the window is kept whole when it is the first of its
 *     kind; once the hole is filled the window underflows. Rule: it is dropped; no honest peer sends
 *     beyond the right edge.
 *   - A FIN out of order can later be joined to a segment that already fills the window. Rule: a FIN
 *     waits its turn; the peer sends it again.
 *   - SYN with payload on an existing connection: lengths are off by one. Rule: dropped.
 *   - A window that shrinks below a retransmission starts the persist timer; an acknowledgement of the
 *     first transmission then empties the queue and leaves it running, with nothing to probe. Rule:
 *     before lwIP's timers run, such a one is stopped (net_before_timers).
 *   - Options in two pbufs: dropped, our cards give headers in one piece.
 *
 * And ours: payload for which there is no memory is dropped before it is acknowledged (lwip_tcp_rx.c
 * has the rule).
 */
#include "net/lwip_net.h"

#include "net/lwip_hooks.h"

#include <string.h>

#include "lwip/ip.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/prot/tcp.h"

static bool out_of_order_ok(const struct tcp_pcb *pcb, const struct tcp_hdr *hdr, unsigned flags,
                            unsigned len)
{
    u32_t right = pcb->rcv_nxt + pcb->rcv_wnd;
    return !(flags & TCP_FIN) && TCP_SEQ_LEQ(hdr->seqno + len, right);
}

/* What comes out of order must leave room for a large frame that fills the hole, and when that comes
 * makes room for it: SACK is advice, the peer still has everything. */
static bool has_room(struct tcp_pcb *pcb, struct tcp_stream *t, const struct netport *port,
                     size_t len, bool late)
{
    if (unlikely(late))
        return netport_rx_free(port) >= MAX(port->rx_total / 4, RX_LARGE_FRAME);
    if (!t || likely(tcp_rx_admit(t, port, len)))
        return true;
    if (!pcb->ooseq)
        return false;
    tcp_free_ooseq(pcb);
    return tcp_rx_admit(t, port, len);
}

err_t net_hook_tcp_in(struct tcp_pcb *pcb, struct tcp_hdr *hdr, u16_t optlen, u16_t opt1len,
                      u8_t *opt2, struct pbuf *p)
{
    unsigned flags = TCPH_FLAGS(hdr), len = p->tot_len;
    if (unlikely(opt2 || opt1len != optlen))
        return ERR_VAL;
    if (pcb->state == LISTEN || pcb->state == SYN_SENT)
        return ERR_OK;
    if (unlikely(optlen))
        memset(hdr + 1, LWIP_TCP_OPT_NOP, optlen);
    if (unlikely((flags & TCP_SYN) && len))
        return ERR_VAL;
    bool late = TCP_SEQ_GT(hdr->seqno, pcb->rcv_nxt);
    if (unlikely(late) && !out_of_order_ok(pcb, hdr, flags, len))
        return ERR_VAL;
    struct tcp_stream *t = net_wire(pcb) ? pcb->callback_arg : NULL;
    if (len && !has_room(pcb, t, ip_current_input_netif()->state, len, late))
        return ERR_MEM;
    if (t && pcb->unsent)
        tcp_stream_dirty(t);
    return ERR_OK;
}

u32_t *net_hook_tcp_out(struct pbuf *p, struct tcp_hdr *hdr, const struct tcp_pcb *pcb, u32_t *opts)
{
    (void)hdr;
    if (pcb && pcb->state != LISTEN && net_wire(pcb))
        net_tx_announce(pcb, p);
    return opts;
}

void net_before_timers(void)
{
    for (struct tcp_pcb *c = tcp_active_pcbs; c; c = c->next)
        if (unlikely(c->persist_backoff) && (c->unacked || !c->unsent))
            c->persist_backoff = 0;
}
