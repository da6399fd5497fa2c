/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Transmitting.
 *
 * lwIP is told that its peers take segments of up to 64 KiB, so one pass through it sends as many
 * bytes as 44 of the usual size. What it hands down here is cut to the size on the wire by the card
 * (TSO) or, where that cannot, by send_next_cut below. The card needs to know the wire's MSS, which
 * the hook tells for the segment that is on its way; a segment that lay in the ARP queue is looked
 * up among the connections.
 *
 * Checksums. lwIP leaves those of TCP at 0. A card with CSUM gets the sum of the pseudo-header
 * (folded, not complemented; with the whole length also for TSO) and does the rest. Else we sum.
 *
 * Order and ownership. Each frame from lwIP is a job, numbered by `issued`; the job refers to the
 * pbufs until the card has read everything. Jobs lie in a ring by number, and `retired` says up to
 * where all are done, in whatever order the cards complete them.
 *
 *     retired             issued
 *        | done | out | out | waiting |          job n is jobs[n % TX_JOBS]
 *
 * A job that finds the card's ring full waits in line at its port, with its progress; the line is
 * as long as the ring of jobs, then frames are lost. lwIP does not retransmit a segment while its
 * pbuf is in a job.
 *
 * Release. A peer may acknowledge what we have sent before the card has read an older copy of it (a
 * retransmission in the ring), or lie and acknowledge what is still in the ring. If the memory were
 * another's by then, its bytes would leave in that frame. So memory goes back to its owner when
 * it is acknowledged *and* every job that may refer to it has retired.
 */
#include "net/lwip_net.h"

#include <string.h>

#include "lwip/priv/tcp_priv.h"
#include "lwip/prot/ethernet.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include "lwip/prot/tcp.h"

#define TX_JOBS     512
#define TX_SEGS_MAX 64
#define HEADERS_MAX (14 + 40 + 60)

struct tx_job {
    struct qlink link;
    struct netport *port;
    struct pbuf *p;        /* NULL: done */
    u16_t frames;          /* with the card; one more while not everything was given to it */
    u16_t wire;            /* most payload of a frame on the wire; 0: it is no TCP segment */
    u16_t ip_len, headers; /* of the IP header; of Ethernet, IP and TCP together */
    u16_t payload, off;    /* of TCP; what was segmented so far */
    const struct pbuf *at; /* cut: where the payload at `off` lies, */
    size_t at_off;         /* and how far in */
    bool tso, cut;         /* the card can segment; we do (also) */
    uint32_t pseudo;       /* sum of the pseudo-header but for the length */
    uint32_t ip_sum;       /* cut, IPv4: of the header but for length, identification and sum */
};
/* A frame that we cut: its own headers, and a reference to the job's payload. */
struct tx_frame {
    union {
        struct tx_job *job;
        struct tx_frame *next; /* spare */
    };
    uint8_t headers[HEADERS_MAX] __attribute__((aligned(16)));
};
static struct pool tx_frame_pool = POOL("net-frame", POOL_RANK_DRIVER, sizeof(struct tx_frame),
                                        .min = 96, .max = 512, .weight = 1);
REGISTER(pool, tx_frame_pool);

static struct {
    struct tx_job jobs[TX_JOBS];
    uint64_t issued, retired;
    const struct tcp_pcb *pcb;
    const struct pbuf *announced;
    struct tx_frame *spare; /* nobody else uses them: they never go back to the pool */
} tx;
/* struct stream_hold; `end` is the job to wait for */
static struct queue releases = {.tail = &releases.first};

/* ---- Jobs that end ---- */

static void run_releases(void)
{
    struct stream_hold *h;
    while ((h = (struct stream_hold *)releases.first) && h->end <= tx.retired) {
        queue_pop(&releases);
        h->release(h);
    }
}

static void retire(void)
{
    while (tx.retired < tx.issued && !tx.jobs[(tx.retired + 1) % TX_JOBS].p)
        tx.retired++;
    if (unlikely(releases.first))
        run_releases();
}

static void job_put(struct tx_job *j)
{
    if (--j->frames)
        return;
    struct pbuf *p = j->p;
    j->p = NULL;
    pbuf_free(p);
    retire();
}

void net_tx_release(struct stream_hold *h, uint64_t last)
{
    if (likely(tx.retired >= last)) {
        h->release(h);
        return;
    }
    h->end = tx.issued; /* not `last`: the line is ordered */
    queue_push(&releases, &h->link);
}

void net_tx_release_last(struct stream_hold *h)
{
    if (!releases.first) {
        h->release(h);
        return;
    }
    h->end = tx.issued;
    queue_push(&releases, &h->link);
}

static void job_done(void *cookie)
{
    job_put(cookie);
}

static struct tx_frame *frame_get(void)
{
    struct tx_frame *f = tx.spare;
    if (unlikely(!f))
        return pool_try_get(&tx_frame_pool, NULL);
    tx.spare = f->next;
    return f;
}

static void frame_put(struct tx_frame *f)
{
    f->next = tx.spare;
    tx.spare = f;
}

static void frame_done(void *cookie)
{
    struct tx_frame *f = cookie;
    struct tx_job *j = f->job;
    frame_put(f);
    job_put(j);
}

/* ---- Headers and sums ---- */

static bool is_v6(const struct tx_job *j)
{
    return j->ip_len == IP6_HLEN;
}

/* What the sums of all frames of a job have in common. */
static void prepare_sums(struct tx_job *j, const uint8_t *ip)
{
    uint64_t addresses = is_v6(j) ? net_sum(ip + 8, 32) : net_sum(ip + 12, 8);
    j->pseudo = net_fold(addresses) + lwip_htons(IP_PROTO_TCP);
    if (!j->cut || is_v6(j))
        return;
    uint8_t copy[60];
    memcpy(copy, ip, MIN(j->ip_len, sizeof(copy)));
    struct ip_hdr *h = (struct ip_hdr *)copy;
    IPH_LEN_SET(h, 0);
    IPH_ID_SET(h, 0);
    IPH_CHKSUM_SET(h, 0);
    j->ip_sum = net_fold(net_sum(copy, j->ip_len));
}

/* The sum of a list of pieces, each beginning at any position: an odd one has its bytes swapped. */
static uint64_t pieces_sum(const struct seg *seg, unsigned n, size_t skip)
{
    uint64_t sum = 0;
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        uint16_t s = net_fold(net_sum((char *)seg[i].base + skip, seg[i].len - skip));
        sum += at & 1 ? __builtin_bswap16(s) : s;
        at += seg[i].len - skip;
        skip = 0;
    }
    return sum;
}

/* Sets the checksum, or prepares it for the card. seg[0] holds the headers. */
static void set_sum(const struct tx_job *j, const struct seg *seg, unsigned n, size_t tcp_len,
                    struct nic_tx_meta *m)
{
    uint8_t *ip = (uint8_t *)seg->base + SIZEOF_ETH_HDR;
    struct tcp_hdr *th = (struct tcp_hdr *)(ip + j->ip_len);
    uint32_t sum = j->pseudo + lwip_htons((u16_t)tcp_len);
    if (j->port->nic->features & NIC_CSUM) {
        th->chksum = net_fold(sum);
        m->csum = true;
        m->csum_start = SIZEOF_ETH_HDR + j->ip_len;
        m->csum_offset = offsetof(struct tcp_hdr, chksum);
        return;
    }
    th->chksum = 0;
    th->chksum = (u16_t)~net_fold(sum + pieces_sum(seg, n, (size_t)SIZEOF_ETH_HDR + j->ip_len));
}

static void set_gso(const struct tx_job *j, size_t payload, struct nic_tx_meta *m)
{
    if (payload <= j->wire)
        return;
    m->gso = is_v6(j) ? 6 : 4;
    m->gso_size = j->wire;
    m->hdr_len = j->headers;
}

/* ---- To the card ---- */

static struct seg segs[TX_SEGS_MAX];

static int give(struct netport *port, size_t len, const struct nic_tx_meta *m, void (*done)(void *),
                void *cookie)
{
    struct iov v = {.seg = segs, .skip = 0, .len = len};
    int rc = port->nic->ops->transmit(port->nic, v, m, done, cookie);
    if (!rc)
        port->kick = true;
    return rc;
}

static inline unsigned max_pieces(const struct netport *port)
{
    return MIN(port->nic->max_tx_segs, (unsigned)TX_SEGS_MAX);
}

static int send_whole(struct tx_job *j)
{
    struct nic_tx_meta m = {0};
    unsigned n = 0;
    for (const struct pbuf *q = j->p; q; q = q->next)
        if (n == max_pieces(j->port))
            return SR_EINVAL;
        else if (q->len)
            segs[n++] = (struct seg){.base = q->payload, .len = q->len};
    if (j->wire) {
        set_sum(j, segs, n, (size_t)j->p->tot_len - SIZEOF_ETH_HDR - j->ip_len, &m);
        set_gso(j, j->payload, &m);
    }
    j->frames++;
    int rc = give(j->port, j->p->tot_len, &m, job_done, j);
    if (rc)
        j->frames--;
    return rc;
}

/* Payload from j->off as pieces from segs[1]: *len bytes, or as much as `max` pieces hold. Returns
 * the number of pieces. */
static unsigned slice(const struct tx_job *j, size_t *len, unsigned max)
{
    const struct pbuf *q = j->at;
    size_t off = j->at_off, left = *len;
    unsigned n = 0;
    for (; left && n < max; q = q->next, off = 0) {
        size_t m = MIN(left, (size_t)q->len - off);
        if (m)
            segs[++n] = (struct seg){.base = (char *)q->payload + off, .len = m};
        left -= m;
    }
    *len -= left;
    return n;
}

/* The card has taken the next `len` bytes (at the beginning: headers). */
static inline void advance(struct tx_job *j, size_t len)
{
    j->at_off += len;
    while (j->at && j->at_off >= j->at->len) {
        j->at_off -= j->at->len;
        j->at = j->at->next;
    }
}

/* The next part: what fits one frame on the wire or, where the card cuts but does not take as many
 * pieces as there are, a multiple of that. 0: too many pieces even so. */
static size_t next_part(const struct tx_job *j, unsigned *n)
{
    unsigned max = max_pieces(j->port) - 1;
    size_t rest = (size_t)j->payload - j->off, wire = MIN(rest, (size_t)j->wire);
    size_t len = j->tso ? rest : wire;
    *n = slice(j, &len, max);
    if (len < wire)
        return 0;
    if (len < rest && len % j->wire) {
        len -= len % j->wire;
        *n = slice(j, &len, max);
    }
    return len;
}

/* The headers of the part at j->off, made from those of the whole. */
static void cut_headers(const struct tx_job *j, uint8_t *h, u16_t len)
{
    if (likely(j->headers == SIZEOF_ETH_HDR + IP_HLEN + TCP_HLEN))
        memcpy(h, j->p->payload, SIZEOF_ETH_HDR + IP_HLEN + TCP_HLEN);
    else
        memcpy(h, j->p->payload, j->headers);
    uint8_t *ip = h + SIZEOF_ETH_HDR;
    struct tcp_hdr *th = (struct tcp_hdr *)(ip + j->ip_len);
    u16_t tcp_len = (u16_t)(j->headers - SIZEOF_ETH_HDR - j->ip_len + len);
    if (is_v6(j)) {
        IP6H_PLEN_SET((struct ip6_hdr *)ip, tcp_len);
    } else {
        struct ip_hdr *i4 = (struct ip_hdr *)ip;
        u16_t len4 = lwip_htons((u16_t)(j->ip_len + tcp_len));
        u16_t id = lwip_htons((u16_t)(lwip_ntohs(IPH_ID(i4)) + j->off / j->wire));
        IPH_LEN_SET(i4, len4);
        IPH_ID_SET(i4, id);
        IPH_CHKSUM_SET(i4, (u16_t)~net_fold(j->ip_sum + len4 + id));
    }
    th->seqno = lwip_htonl(lwip_ntohl(th->seqno) + j->off);
    if (j->off + len < j->payload)
        TCPH_UNSET_FLAG(th, TCP_FIN | TCP_PSH);
}

static int send_next_cut(struct tx_job *j)
{
    struct tx_frame *f = frame_get();
    if (!f)
        return SR_EAGAIN;
    struct nic_tx_meta m = {0};
    unsigned n;
    size_t len = next_part(j, &n);
    int rc = SR_EINVAL;
    j->frames++;
    if (len) {
        f->job = j;
        cut_headers(j, f->headers, (u16_t)len);
        segs[0] = (struct seg){.base = f->headers, .len = j->headers};
        set_sum(j, segs, n + 1, (size_t)j->headers - SIZEOF_ETH_HDR - j->ip_len + len, &m);
        set_gso(j, len, &m);
        rc = give(j->port, j->headers + len, &m, frame_done, f);
    }
    if (rc) {
        frame_put(f);
        j->frames--;
    } else {
        j->off = (u16_t)(j->off + len);
        advance(j, len);
    }
    return rc;
}

/* False: the card takes no more now. A frame that it refuses for good is lost. */
static bool job_send(struct tx_job *j)
{
    int rc;
    do
        rc = j->cut ? send_next_cut(j) : send_whole(j);
    while (!rc && j->cut && j->off < j->payload);
    if (rc == SR_EAGAIN)
        return false;
    job_put(j);
    return true;
}

void net_tx_space(struct nic *n)
{
    struct netport *port = n->net;
    while (!queue_empty(&port->waiting)) {
        struct tx_job *j = container_of(port->waiting.first, struct tx_job, link);
        struct qlink *first = port->waiting.first;
        if (!job_send(j))
            return;
        ASSERT(queue_pop(&port->waiting) == first);
    }
}

/* Once per turn. A line that waits for tx_frame objects, and who waits for memory, need to hear of
 * frames that the card has done with. */
void net_tx_turn_end(void)
{
    for (unsigned i = 0; i < net_port_count; i++) {
        struct netport *port = net_ports[i];
        if (unlikely(!queue_empty(&port->waiting)))
            net_tx_space(port->nic);
        port->nic->tx_wanted = releases.first || !queue_empty(&port->waiting);
        if (port->kick)
            port->nic->ops->kick(port->nic);
        port->kick = false;
    }
}

/* ---- From lwIP ---- */

void net_tx_announce(const struct tcp_pcb *pcb, const struct pbuf *p)
{
    tx.pcb = pcb;
    tx.announced = p;
}

/* The connection of a segment that waited for an address. Its payload is ours to send only while it
 * is not acknowledged. */
static const struct tcp_pcb *find_pcb(const struct tcp_hdr *th)
{
    for (const struct tcp_pcb *c = tcp_active_pcbs; c; c = c->next)
        if (c->local_port == lwip_ntohs(th->src) && c->remote_port == lwip_ntohs(th->dest) &&
            net_wire(c) && TCP_SEQ_GEQ(lwip_ntohl(th->seqno), c->lastack))
            return c;
    return NULL;
}

/* Fills in what the job has to know of a TCP segment. False: it must not be sent. */
static bool look_at_tcp(struct tx_job *j, const struct tcp_pcb *pcb)
{
    const uint8_t *eth = j->p->payload, *ip = eth + SIZEOF_ETH_HDR;
    bool v6 = ((const struct eth_hdr *)eth)->type == PP_HTONS(ETHTYPE_IPV6);
    j->ip_len = v6 ? IP6_HLEN : (u16_t)IPH_HL_BYTES((const struct ip_hdr *)ip);
    const struct tcp_hdr *th = (const struct tcp_hdr *)(ip + j->ip_len);
    j->headers = (u16_t)(SIZEOF_ETH_HDR + j->ip_len + TCPH_HDRLEN_BYTES(th));
    j->payload = (u16_t)(j->p->tot_len - j->headers);
    j->wire = (u16_t)(j->port->netif.mtu - j->ip_len - sizeof(*th));
    if (!j->payload) {
        prepare_sums(j, ip);
        return true;
    }
    pcb = pcb ? pcb : find_pcb(th);
    if (!pcb)
        return false;
    struct tcp_stream *t = pcb->callback_arg;
    if (t)
        t->tx_seq = tx.issued + 1;
    j->wire = net_wire(pcb);
    j->tso = j->port->nic->features & (v6 ? NIC_TSO6 : NIC_TSO4);
    j->cut = (j->payload > j->wire && !j->tso) || pbuf_clen(j->p) > max_pieces(j->port);
    if (j->cut) {
        j->at = j->p;
        advance(j, j->headers);
    }
    prepare_sums(j, ip);
    return true;
}

static bool is_tcp(const struct pbuf *p)
{
    const uint8_t *eth = p->payload;
    if (p->len < SIZEOF_ETH_HDR + IP_HLEN + sizeof(struct tcp_hdr))
        return false;
    if (((const struct eth_hdr *)eth)->type == PP_HTONS(ETHTYPE_IP))
        return eth[SIZEOF_ETH_HDR + 9] == IP_PROTO_TCP;
    return ((const struct eth_hdr *)eth)->type == PP_HTONS(ETHTYPE_IPV6) &&
           p->len >= SIZEOF_ETH_HDR + IP6_HLEN + sizeof(struct tcp_hdr) &&
           eth[SIZEOF_ETH_HDR + 6] == IP_PROTO_TCP;
}

err_t net_tx(struct netif *netif, struct pbuf *p)
{
    struct netport *port = netif->state;
    const struct tcp_pcb *pcb = tx.announced == p ? tx.pcb : NULL;
    tx.announced = NULL;
    struct tx_job *j = &tx.jobs[(tx.issued + 1) % TX_JOBS];
    if (unlikely(tx.issued - tx.retired >= TX_JOBS - 1))
        return ERR_OK; /* lost, as on a wire: an error would make lwIP try at once again */
    *j = (struct tx_job){.port = port, .p = p, .frames = 1};
    bool ok = is_tcp(p) ? look_at_tcp(j, pcb) : p->tot_len <= netif->mtu + SIZEOF_ETH_HDR;
    if (!ok) {
        j->p = NULL;
        return ERR_OK;
    }
    pbuf_ref(p);
    tx.issued++;
    if (!queue_empty(&port->waiting) || !job_send(j))
        queue_push(&port->waiting, &j->link);
    return ERR_OK;
}
