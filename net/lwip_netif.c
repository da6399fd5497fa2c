/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A card as lwIP's interface, and receiving.
 *
 * A frame comes as a chain of the card's own buffers. Each gets a pbuf that refers to it (in the
 * buffer's `opaque` room), so lwIP and the streams work on the memory the card wrote to; when the
 * last reference goes, the buffer goes back to the card.
 *
 *     struct nic_rx_buf                        struct nic_rx_buf
 *     data ------------> Ethernet | IP | TCP | payload   payload ...
 *     opaque: struct rx_pbuf ---- pbuf.next ----> struct rx_pbuf
 *
 * Checksums: a frame that the card vouches for, or that comes from this host and carries only the
 * sum of the pseudo-header, must not be verified; lwIP asks the interface's flags, so they are set
 * before each frame.
 *
 * Acknowledgements come in rows when we have sent much: within a batch, one that only acknowledges
 * is kept back for a moment, and dropped when the next frame of the card acknowledges more of the same
 * connection. Duplicates acknowledge no more and are all seen, and so is all with options (SACK).
 *
 * Missing on purpose: frames longer than 65535 bytes with their Ethernet header (a pbuf's length has
 * 16 bits) are dropped; no segment that a Linux host makes by itself is that long.
 */
#include "net/lwip_net.h"

#include <string.h>

#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/prot/tcp.h"
#include "lwip/priv/tcp_priv.h"
#include "netif/ethernet.h"

struct rx_pbuf {
    struct pbuf_custom pc;
    struct netport *port;
    unsigned *held; /* of the stream that has it, or NULL */
};
static_assert(sizeof(struct rx_pbuf) <= sizeof(((struct nic_rx_buf *)0)->opaque), "fits opaque");

struct netport *net_ports[NET_PORTS_MAX];
unsigned net_port_count;

/* ---- Receiving ---- */

static void rx_free(struct pbuf *p)
{
    struct rx_pbuf *rp = (struct rx_pbuf *)p;
    struct nic_rx_buf *b = container_of((uint64_t *)rp, struct nic_rx_buf, opaque[0]);
    rp->port->rx_held--;
    if (rp->held)
        --*rp->held;
    b->next = NULL;
    b->nic->ops->rx_return(b->nic, b);
}

struct netport *netport_of(const struct pbuf *p)
{
    const struct pbuf_custom *pc = (const struct pbuf_custom *)p;
    bool ours = (p->flags & PBUF_FLAG_IS_CUSTOM) && pc->custom_free_function == rx_free;
    return ours ? ((const struct rx_pbuf *)p)->port : NULL;
}

void netport_charge(struct pbuf *p, unsigned *held)
{
    ((struct rx_pbuf *)p)->held = held;
    ++*held;
}

static struct pbuf *wrap(struct netport *port, struct nic_rx_buf *b, u16_t tot_len)
{
    struct rx_pbuf *rp = (struct rx_pbuf *)b->opaque;
    rp->port = port;
    rp->held = NULL;
    rp->pc.custom_free_function = rx_free;
    struct pbuf *p = pbuf_alloced_custom(PBUF_RAW, b->len, PBUF_REF, &rp->pc, b->data, b->len);
    p->tot_len = tot_len;
    port->rx_held++;
    return p;
}

static struct pbuf *wrap_frame(struct netport *port, struct nic_rx_buf *chain, size_t total)
{
    struct pbuf *head = NULL, **at = &head;
    for (struct nic_rx_buf *b = chain, *next; b; b = next) {
        next = b->next;
        *at = wrap(port, b, (u16_t)total);
        at = &(*at)->next;
        total -= b->len;
    }
    return head;
}

static void deliver(struct nic *n, struct nic_rx_buf *chain, unsigned flags)
{
    struct netport *port = n->net;
    size_t total = 0;
    for (const struct nic_rx_buf *b = chain; b; b = b->next)
        total += b->len;
    if (unlikely(total > UINT16_MAX)) {
        n->ops->rx_return(n, chain);
        return;
    }
    const u16_t check = NETIF_CHECKSUM_CHECK_TCP | NETIF_CHECKSUM_CHECK_UDP;
    if (flags & (NIC_RX_CSUM_PARTIAL | NIC_RX_CSUM_VALID))
        port->netif.chksum_flags &= (u16_t)~check;
    else
        port->netif.chksum_flags |= check;
    struct pbuf *p = wrap_frame(port, chain, total);
    if (ethernet_input(p, &port->netif) != ERR_OK)
        pbuf_free(p);
    net_timers_changed();
}

/* The TCP header of a frame that is nothing but an acknowledgement, or NULL. */
static const struct tcp_hdr *only_ack(const struct nic_rx_buf *b)
{
    const struct eth_hdr *eth = (const struct eth_hdr *)b->data;
    const uint8_t *ip = b->data + SIZEOF_ETH_HDR;
    const struct tcp_hdr *th;
    if (b->next || b->len < SIZEOF_ETH_HDR + IP_HLEN + TCP_HLEN)
        return NULL;
    if (eth->type == PP_HTONS(ETHTYPE_IP)) {
        const struct ip_hdr *h = (const struct ip_hdr *)ip;
        if (h->_v_hl != 0x45 || h->_len != PP_HTONS(IP_HLEN + TCP_HLEN) ||
            h->_proto != IP_PROTO_TCP || (h->_offset & PP_HTONS(IP_MF | IP_OFFMASK)))
            return NULL;
        th = (const struct tcp_hdr *)(ip + IP_HLEN);
    } else {
        const struct ip6_hdr *h = (const struct ip6_hdr *)ip;
        if (eth->type != PP_HTONS(ETHTYPE_IPV6) || b->len < SIZEOF_ETH_HDR + IP6_HLEN + TCP_HLEN ||
            h->_plen != PP_HTONS(TCP_HLEN) || h->_nexth != IP_PROTO_TCP)
            return NULL;
        th = (const struct tcp_hdr *)(ip + IP6_HLEN);
    }
    return th->_hdrlen_rsvd_flags == PP_HTONS(TCP_HLEN / 4 << 12 | TCP_ACK) ? th : NULL;
}

/* Does the frame `b` make the acknowledgement `a` superfluous? All but identification and sums before
 * the ports has to be the same. */
static bool replaces(const struct nic_rx_buf *a, const struct nic_rx_buf *b,
                     const struct tcp_hdr *tb)
{
    const struct tcp_hdr *ta = only_ack(a);
    size_t at = (size_t)((const uint8_t *)tb - b->data), addresses = at == 34 ? 8 : 32;
    return (const uint8_t *)ta - a->data == (const uint8_t *)tb - b->data &&
           !memcmp((const uint8_t *)ta - addresses, (const uint8_t *)tb - addresses,
                   addresses + 2 * sizeof(u16_t)) &&
           ta->seqno == tb->seqno && TCP_SEQ_GT(lwip_ntohl(tb->ackno), lwip_ntohl(ta->ackno));
}

static void deliver_ack(struct nic *n)
{
    struct netport *port = n->net;
    struct nic_rx_buf *ack = port->ack;
    port->ack = NULL;
    if (ack)
        deliver(n, ack, port->ack_flags);
}

static void port_rx(struct nic *n, struct nic_rx_buf *chain, unsigned flags)
{
    struct netport *port = n->net;
    bool sound = flags & (NIC_RX_CSUM_PARTIAL | NIC_RX_CSUM_VALID);
    const struct tcp_hdr *th = sound ? only_ack(chain) : NULL;
    if (!th) {
        deliver_ack(n);
        deliver(n, chain, flags);
        return;
    }
    if (port->ack && replaces(port->ack, chain, th)) {
        n->ops->rx_return(n, port->ack);
        port->ack = NULL;
    }
    deliver_ack(n);
    port->ack = chain;
    port->ack_flags = flags;
}

/* ---- The interface ---- */

static void link_changed(struct nic *n)
{
    struct netport *port = n->net;
    log_line("net", "%u: link %s", n->index, n->link_up ? "up" : "down");
    if (n->link_up)
        netif_set_link_up(&port->netif);
    else
        netif_set_link_down(&port->netif);
    net_timers_changed();
}

/* TCP sums are made in lwip_tx.c: by the card, or per wire segment. */
static err_t port_init(struct netif *netif)
{
    struct netport *port = netif->state;
    netif->name[0] = 'n';
    netif->name[1] = (char)('0' + port->nic->index % 10);
    netif->output = etharp_output;
    netif->output_ip6 = ethip6_output;
    netif->linkoutput = net_tx;
    netif->hwaddr_len = sizeof(port->nic->mac);
    memcpy(netif->hwaddr, port->nic->mac, sizeof(port->nic->mac));
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_MLD6;
    if (port->nic->link_up)
        netif->flags |= NETIF_FLAG_LINK_UP;
    NETIF_SET_CHECKSUM_CTRL(netif, NETIF_CHECKSUM_ENABLE_ALL & ~NETIF_CHECKSUM_GEN_TCP);
    return ERR_OK;
}

int netport_open(struct nic *n, unsigned mtu, struct netport **out)
{
    net_start();
    struct netport *port = net_port_count < NET_PORTS_MAX ? sr_calloc(1, sizeof(*port)) : NULL;
    if (!port)
        return SR_ENOMEM;
    port->nic = n;
    port->rx_total = n->rx_buffers ? n->rx_buffers : NIC_RX_BUFFERS_UNTOLD;
    queue_init(&port->waiting);
    if (!netif_add(&port->netif, NULL, NULL, NULL, port, port_init, ethernet_input)) {
        sr_free(port);
        return SR_EIO;
    }
    port->netif.mtu = (u16_t)mtu;
    port->netif.mtu6 = port->netif.mtu;
    net_ports[net_port_count++] = port;
    n->net = port;
    n->tx_space = net_tx_space;
    n->link_change = link_changed;
    n->rx = port_rx;
    n->rx_batch_end = deliver_ack;
    if (!netif_default)
        netif_set_default(&port->netif);
    *out = port;
    return 0;
}
